package config

import (
	"regexp"
	"slices"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// The ways to a copy of the data.
const (
	CloneBackup     = "backup"     // restored from the repository
	CloneBaseBackup = "basebackup" // sent by a member
)

// BaseBackup is how a member sends a copy.
type BaseBackup struct {
	MaxRate    string // a second, as pg_basebackup reads it: kB, or with k or M; empty: as fast as it goes
	Compress   string // on its way: gzip, lz4 or zstd (PostgreSQL 15); empty: not at all
	Checkpoint string // that it begins with: fast, or spread over the usual time; empty: fast
}

// Args are pg_basebackup's arguments.
func (b BaseBackup) Args() []string {
	var args []string
	for _, a := range [][2]string{{"--checkpoint=", b.Checkpoint}, {"--max-rate=", b.MaxRate}, {"--compress=server-", b.Compress}} {
		if a[1] != "" {
			args = append(args, a[0]+a[1])
		}
	}
	return args
}

func (r *reader) clone(b *hclsyntax.Body, path string, p *Postgres) {
	r.body(b, path, []field{list("methods", &p.CloneMethods)}, []block{
		r.once("basebackup", func(b *hclsyntax.Body, path string) {
			r.body(b, path, []field{
				text("max_rate", &p.BaseBackup.MaxRate),
				choice("compress", &p.BaseBackup.Compress, "gzip", "lz4", "zstd"),
				choice("checkpoint", &p.BaseBackup.Checkpoint, "fast", "spread"),
			}, nil)
		}),
	})
}

// maxRate is what pg_basebackup takes, from 32 kB to 1 GB: it says so itself where a
// number of that form is beyond.
var maxRate = regexp.MustCompile(`^[1-9][0-9]{0,6}[kM]?$`)

// checkClone holds the ways to a copy against what can be done.
func (r *reader) checkClone(c *Config) {
	ways := c.Postgres.CloneMethods
	for i, way := range ways {
		r.require(way == CloneBackup || way == CloneBaseBackup, "clone.methods", `method %q: expected "backup" or "basebackup"`, way)
		r.require(!slices.Contains(ways[:i], way), "clone.methods", "method %q is there twice", way)
	}
	r.require(slices.Contains(ways, CloneBaseBackup), "clone.methods", `expected "basebackup" too: when the repository fails there is no other way`)
	r.require(!slices.Contains(ways, CloneBackup) || c.archives(), "clone.methods",
		"method %q needs a block backup of engine pgbackrest or command, which has the repository", CloneBackup)
	r.require(!slices.Contains(ways, CloneBackup) || c.Postgres.WALDir == "", "clone.methods",
		"method %q restores pg_wal into data_dir: expected no postgres.wal_dir, or basebackup alone", CloneBackup)
	rate := c.Postgres.BaseBackup.MaxRate
	r.require(rate == "" || maxRate.MatchString(rate), "clone.basebackup.max_rate", `max_rate %q: expected a number of kB a second, or such as "100M"`, rate)
}

// clone writes where the data of a member come from.
func (w *writer) clone(p *Postgres) {
	methods, base := p.CloneMethods, p.BaseBackup
	plain := slices.Equal(methods, []string{CloneBaseBackup})
	if plain && base == (BaseBackup{}) {
		return
	}
	of := w.block("clone")
	if !plain {
		of.set("methods", methods)
	}
	if base != (BaseBackup{}) {
		b := of.block("basebackup")
		b.set("max_rate", base.MaxRate)
		b.set("compress", base.Compress)
		b.set("checkpoint", base.Checkpoint)
	}
}
