package patroni

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// initdbKeys are the options of initdb that a block bootstrap has, by Patroni's names.
var initdbKeys = map[string]string{"encoding": "encoding", "locale": "locale", "locale-provider": "locale_provider", "icu-locale": "icu_locale", "builtin-locale": "builtin_locale"}

// initdb becomes the block bootstrap's.
func (im *importer) initdb(e entry) { im.options(e, im.initdbOption) }

// baseBackup becomes the block clone's.
func (im *importer) baseBackup(e entry) { im.options(e, im.baseBackupOption) }

// options calls f for a list of options, each a word or one key with its value, or for a
// mapping of them.
func (im *importer) options(e entry, f func(at entry, key, value string)) {
	for i := 0; i < len(e.value.Content); i++ {
		v := e.value.Content[i]
		at := entry{path: e.path, line: v.Line, value: v}
		switch {
		case e.value.Kind == yaml.MappingNode && i+1 < len(e.value.Content):
			f(at, v.Value, e.value.Content[i+1].Value)
			i++
		case v.Kind == yaml.MappingNode && len(v.Content) == 2:
			f(at, v.Content[0].Value, v.Content[1].Value)
		default:
			key, value, _ := strings.Cut(v.Value, "=")
			f(at, key, value)
		}
	}
}

func (im *importer) initdbOption(at entry, key, value string) {
	block := func() *blockOf { return im.doc.block("bootstrap", "initdb") }
	text := strings.TrimSuffix(key+": "+value, ": ")
	switch {
	case key == "data-checksums":
		if value == "false" {
			block().set("checksums", "false")
		}
	case key == "no-data-checksums":
		block().set("checksums", "false")
	case key == "encoding" && strings.EqualFold(strings.NewReplacer("-", "", "_", "").Replace(value), "utf8"): // the default
	case initdbKeys[key] != "":
		block().text(initdbKeys[key], value)
	case key == "wal-segsize":
		if _, err := strconv.Atoi(value); err != nil {
			im.note(at, "%s: expected megabytes", text)
			return
		}
		block().set("wal_segment_mb", value)
	case key == "waldir":
		im.walDir(at, text, value)
	case strings.HasPrefix(key, "auth"):
		im.note(at, "%s: a new cluster lets in by scram-sha-256, over the network and locally", text)
	default:
		im.note(at, "%s: not supported; an existing cluster is taken over as it is", text)
	}
}

// walDir is where pg_wal of new data is; of initdb and pg_basebackup the first counts.
func (im *importer) walDir(at entry, text, value string) {
	if im.doc.block("postgres").has("wal_dir") {
		return
	}
	im.doc.block("postgres").text("wal_dir", value)
	im.note(at, "%s: holds for new data, of this member and for initdb as for a copy; data that are taken over keep theirs", text)
}

func (im *importer) baseBackupOption(at entry, key, value string) {
	text := strings.TrimSuffix(key+": "+value, ": ")
	block := func() *blockOf { return im.doc.block("clone", "basebackup") }
	switch key {
	case "verbose", "progress", "no-password": // pgsidecar does as it needs
	case "max-rate":
		block().text("max_rate", value)
	case "checkpoint":
		block().text("checkpoint", value)
	case "waldir", "xlogdir":
		im.walDir(at, text, value)
	case "compress":
		method, level, _ := strings.Cut(strings.TrimPrefix(value, "server-"), ":")
		if method != "gzip" && method != "lz4" && method != "zstd" {
			im.note(at, "%s: only the sender compresses, by gzip, lz4 or zstd: clone { basebackup { compress } }", text)
			return
		}
		block().text("compress", method)
		if level != "" {
			im.note(at, "%s: the level is PostgreSQL's own", text)
		}
	case "tablespace-mapping":
		im.note(at, "%s: not supported: a tablespace has the same path on each member, as a member that is rewound or restored needs it too; mount this member's own disk there", text)
	default:
		im.note(at, "%s: not supported", text)
	}
}
