package config

import (
	"slices"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
)

// Bootstrap says how the first member makes the cluster; without anything, by initdb.
type Bootstrap struct {
	FromBackup *FromBackup // nil: from none
	Initdb     Initdb
}

// FromBackup names the backup that a cluster is founded from. It is read by the engine of
// the block backup that archives the log.
type FromBackup struct {
	Cluster string // whose it is, in the repository; empty: this cluster's
	Label   string // empty: the newest that fits
	// Kind and Value are how far the log is replayed, as backup.ParseTarget reads them; an
	// empty kind: to the end.
	Kind  backup.TargetKind
	Value string
}

// Target is how far the log is replayed.
func (f *FromBackup) Target() (backup.Target, error) {
	if f.Kind == "" {
		return backup.Target{}, nil
	}
	return backup.ParseTarget(f.Kind, f.Value)
}

func (r *reader) bootstrap(b *hclsyntax.Body, path string, k *Bootstrap) {
	r.body(b, path, nil, []block{r.once("from_backup", func(b *hclsyntax.Body, path string) {
		f := &FromBackup{}
		k.FromBackup = f
		r.body(b, path, []field{
			text("cluster", &f.Cluster), text("label", &f.Label),
			f.target(backup.ToTime), f.target(backup.ToLSN), f.target(backup.ToName), f.target(backup.ToXID),
		}, nil)
	}), r.once("initdb", func(b *hclsyntax.Body, path string) { r.initdb(b, path, &k.Initdb) })})
}

// target takes one, as the only one.
func (f *FromBackup) target(kind backup.TargetKind) field {
	return field{name: targetName(kind), take: func(v cty.Value) string {
		if v.Type() != cty.String {
			return "a string"
		}
		_, err := backup.ParseTarget(kind, v.AsString())
		switch {
		case err != nil:
			return targetsExpected[kind]
		case f.Kind != "":
			return "one target: to_time, to_lsn, to_name or to_xid"
		}
		f.Kind, f.Value = kind, v.AsString()
		return ""
	}}
}

func targetName(kind backup.TargetKind) string { return "to_" + string(kind) }

// beginnings writes where data come from: a member's, and a cluster's.
func (w *writer) beginnings(c *Config) {
	w.clone(&c.Postgres)
	f := c.Bootstrap.FromBackup
	initdb := c.Bootstrap.Initdb
	if f == nil && initdb == DefaultInitdb() {
		return
	}
	of := w.block("bootstrap")
	if initdb != DefaultInitdb() {
		of.initdb(&initdb)
	}
	if f == nil {
		return
	}
	b := of.block("from_backup")
	b.set("cluster", f.Cluster)
	b.set("label", f.Label)
	b.set(targetName(f.Kind), f.Value)
}

var targetsExpected = map[backup.TargetKind]string{
	backup.ToTime: `a moment with its zone, such as "2026-03-01 12:00:00+01"`, backup.ToLSN: "a position in the log, such as 0/3000148",
	backup.ToName: "the name of a restore point", backup.ToXID: "a transaction id, 3 to 4294967295",
}

// archives reports whether a block archives the log: only such a one can restore.
func (c *Config) archives() bool {
	return slices.ContainsFunc(c.Backups, func(k Backup) bool { return k.Engine != EnginePgDump })
}

// DeltaRestores reports whether the engine that restores keeps files that are as in the
// backup.
func (c *Config) DeltaRestores() bool {
	return slices.ContainsFunc(c.Backups, func(k Backup) bool { return k.Engine == EnginePgBackRest })
}

// checkBootstrap: only a block that archives the log can restore.
func (r *reader) checkBootstrap(c *Config) {
	r.checkInitdb(&c.Bootstrap.Initdb)
	r.require(c.Bootstrap.FromBackup == nil || c.Postgres.WALDir == "", "bootstrap.from_backup",
		"a backup is restored with pg_wal in data_dir: expected no postgres.wal_dir")
	if c.Bootstrap.FromBackup == nil || c.archives() {
		return
	}
	r.refuse("bootstrap.from_backup", "expected a block backup of engine pgbackrest or command, which has the repository")
}
