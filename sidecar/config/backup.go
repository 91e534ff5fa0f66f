package config

import (
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
)

// Backup is one block backup "NAME": an engine, where it keeps backups, and when it
// makes them.
type Backup struct {
	Name   string
	Engine string // pgbackrest, command or pg_dump
	// From says which members may make it; MaxLag how far behind a replica may be.
	From   backup.Source
	MaxLag time.Duration
	// Processes compress and copy at a time. Compress is pgBackRest's; empty: lz4.
	Processes int
	Compress  string

	Repository Repository
	Retention  backup.Retention
	// Schedules are when each kind is due; Verify is when the newest is restored to
	// a scratch folder. Empty: a person begins them.
	Schedules []backup.Schedule
	Verify    string

	// Commands are those of engine command, by name (package backup/command).
	Commands map[string][]string
	// Databases and Format are those of engine pg_dump; empty: all, and directory.
	Databases []string
	Format    string
}

// Repository is where an engine keeps backups.
type Repository struct {
	Type string // pgbackrest: posix, s3, azure, gcs, sftp or cifs; empty: posix
	// Path is absolute. For pg_dump it is a folder of this machine.
	Path    string
	KeyFile string // has the passphrase of the encryption; empty: none
	// Options are the engine's own: pgBackRest's without repo1-; environment
	// variables of commands.
	Options map[string]string
	// SecretFiles are options whose values are the contents of files.
	SecretFiles map[string]string
}

// The engines of backups.
const (
	EnginePgBackRest = "pgbackrest"
	EngineCommand    = "command"
	EnginePgDump     = "pg_dump"
)

// defaultMaxLag is a replica's that follows, with a slow transfer of one segment.
const defaultMaxLag = 30 * time.Second

func backupDefaults(name string) Backup {
	return Backup{Name: name, From: backup.PreferReplica, MaxLag: defaultMaxLag, Processes: 1}
}

// schedules are the keys of block schedule.
var schedules = []struct {
	name string
	kind backup.Kind
}{{"full", backup.Full}, {"diff", backup.Differential}, {"incr", backup.Incremental}, {"dump", backup.Logical}}

func (r *reader) backup(b *hclsyntax.Body, path string, k *Backup) {
	days := 0
	r.body(b, path, []field{
		choice("engine", &k.Engine, EnginePgBackRest, EngineCommand, EnginePgDump),
		choice("from", &k.From, backup.PreferReplica, backup.OnlyReplica, backup.OnlyPrimary),
		duration("max_lag", &k.MaxLag),
		number("processes", &k.Processes),
		choice("compress", &k.Compress, "gz", "lz4", "zst", "bz2", "none"),
		list("databases", &k.Databases),
		choice("format", &k.Format, "directory", "custom", "wal-g", "pgsidecar"),
	}, []block{
		r.once("repository", func(b *hclsyntax.Body, path string) {
			r.body(b, path, []field{
				choice("type", &k.Repository.Type, "posix", "s3", "azure", "gcs", "sftp", "cifs"),
				text("path", &k.Repository.Path),
				r.path("key_file", &k.Repository.KeyFile),
				table("options", &k.Repository.Options),
				table("secret_files", &k.Repository.SecretFiles),
			}, nil)
		}),
		r.once("retention", func(b *hclsyntax.Body, path string) {
			r.body(b, path, []field{number("full", &k.Retention.Full), number("days", &days)}, nil)
		}),
		r.once("schedule", func(b *hclsyntax.Body, path string) {
			var fields []field
			for _, s := range schedules {
				fields = append(fields, k.schedule(s.name, s.kind))
			}
			r.body(b, path, append(fields, verify(&k.Verify)), nil)
		}),
		r.once("commands", func(b *hclsyntax.Body, path string) {
			k.Commands = map[string][]string{}
			var fields []field
			for _, name := range []string{"prepare", "archive", "fetch", "backup", "list", "wal", "restore", "expire", "check"} {
				fields = append(fields, command(name, k.Commands))
			}
			r.body(b, path, fields, nil)
		}),
	})
	k.Retention.Window = time.Duration(days) * 24 * time.Hour
	for name, file := range k.Repository.SecretFiles {
		k.Repository.SecretFiles[name] = under(r.dir, file)
	}
}

// command takes a list of words.
func command(name string, to map[string][]string) field {
	var words []string
	f := list(name, &words)
	take := f.take
	f.take = func(v cty.Value) string {
		expected := take(v)
		if expected == "" && (v.Type() == cty.String || len(words) == 0) {
			expected = `a list of words, such as ["wal-g", "wal-push", "{path}"]`
		}
		to[name] = words
		return expected
	}
	return f
}

// schedule takes cron's five fields.
func (k *Backup) schedule(name string, kind backup.Kind) field {
	var spec string
	f := text(name, &spec)
	take := f.take
	f.take = func(v cty.Value) string {
		if take(v) == "" {
			if s, err := backup.ParseSchedule(kind, spec); err == nil {
				k.Schedules = append(k.Schedules, s)
				return ""
			}
		}
		return cronExpected
	}
	return f
}

const cronExpected = `minute, hour, day, month and weekday as cron has them, such as "30 2 * * 0"`

// verify takes the same, and keeps the text.
func verify(to *string) field {
	f := text("verify", to)
	take := f.take
	f.take = func(v cty.Value) string {
		if take(v) == "" {
			if _, err := backup.ParseSchedule(backup.Full, *to); err == nil {
				return ""
			}
		}
		return cronExpected
	}
	return f
}

// backupName is what a block may be called.
var backupName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$`)

// checkBackups holds each block against what its engine can do. What an engine
// itself refuses it says when it is made.
func (r *reader) checkBackups(c *Config) {
	archiving := ""
	for i := range c.Backups {
		k := &c.Backups[i]
		path := join("backup", k.Name)
		r.require(backupName.MatchString(k.Name), path, "the name of a backup is part of a folder's and of a key's: "+
			"expected letters, digits, dashes and underscores, got %q", k.Name)
		if k.Engine == "" {
			r.refuse(path, `expected engine = "pgbackrest", "command" or "pg_dump"`)
			continue
		}
		r.require(k.Engine == EngineCommand || filepath.IsAbs(k.Repository.Path), path+".repository.path",
			"expected the absolute path of the repository, got %q", k.Repository.Path)
		r.require(k.Retention.Full == 0 || k.Retention.Window == 0 || k.Engine != EnginePgBackRest, path+".retention",
			"pgBackRest keeps a number of full backups or days, not both")
		r.require(k.Engine != EngineCommand || len(k.Commands) > 0, path, "engine command needs a block commands")
		r.require(k.Engine == EngineCommand || len(k.Commands) == 0, path+".commands", "only engine command has commands")
		r.require(k.Engine == EnginePgDump || len(k.Databases) == 0, path+".databases", "only engine pg_dump has databases")
		r.require(k.formatFits(), path+".format", "engine %s has no format %q", k.Engine, k.Format)
		for _, s := range k.Schedules {
			r.require((s.Kind == backup.Logical) == (k.Engine == EnginePgDump), path+".schedule",
				"engine %s has no schedule %q", k.Engine, scheduleName(s.Kind))
		}
		if k.Engine == EnginePgDump {
			continue
		}
		if archiving != "" {
			r.refuse(path, "only one block archives the log, and backup %s does", archiving)
			continue
		}
		archiving = k.Name
		for _, name := range []string{"archive_command", "archive_library", "archive_mode"} {
			_, given := c.Postgres.Parameters[name]
			r.require(!given, "postgres.parameters", "%s is set by backup %q", name, k.Name)
		}
	}
}

func (k *Backup) formatFits() bool {
	fits := map[string][]string{EnginePgDump: {"directory", "custom"}, EngineCommand: {"wal-g", "pgsidecar"}}
	return k.Format == "" || slices.Contains(fits[k.Engine], k.Format)
}

func scheduleName(kind backup.Kind) string {
	for _, s := range schedules {
		if s.kind == kind {
			return s.name
		}
	}
	return string(kind)
}

func (w *writer) backup(k *Backup) {
	b := w.labelled("backup", k.Name)
	b.set("engine", k.Engine)
	b.set("from", string(k.From))
	b.set("max_lag", k.MaxLag)
	b.set("processes", k.Processes)
	b.set("compress", k.Compress)
	b.set("databases", k.Databases)
	b.set("format", k.Format)
	if in := &k.Repository; in.Type+in.Path+in.KeyFile != "" || len(in.Options)+len(in.SecretFiles) > 0 {
		repository := b.block("repository")
		repository.set("type", in.Type)
		repository.set("path", in.Path)
		repository.set("key_file", in.KeyFile)
		repository.set("options", in.Options)
		repository.set("secret_files", in.SecretFiles)
	}
	if keep := k.Retention; keep.Full > 0 || keep.Window > 0 {
		retention := b.block("retention")
		retention.some("full", keep.Full)
		retention.some("days", int(keep.Window/(24*time.Hour)))
	}
	if len(k.Schedules) > 0 || k.Verify != "" {
		schedule := b.block("schedule")
		for _, s := range k.Schedules {
			schedule.set(scheduleName(s.Kind), s.String())
		}
		schedule.set("verify", k.Verify)
	}
	if len(k.Commands) > 0 {
		commands := b.block("commands")
		for _, name := range sortedKeys(k.Commands) {
			commands.set(name, k.Commands[name])
		}
	}
}
