package patroni

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// initdbKeys are the options of initdb that a block bootstrap has, by Patroni's names.
var initdbKeys = map[string]string{"encoding": "encoding", "locale": "locale", "locale-provider": "locale_provider", "icu-locale": "icu_locale", "builtin-locale": "builtin_locale"}

// initdb becomes the block bootstrap's: a list of options, each a word or one key with its
// value, or a mapping of them.
func (im *importer) initdb(e entry) {
	for i := 0; i < len(e.value.Content); i++ {
		v := e.value.Content[i]
		at := entry{path: e.path, line: v.Line, value: v}
		switch {
		case e.value.Kind == yaml.MappingNode && i+1 < len(e.value.Content):
			im.initdbOption(at, v.Value, e.value.Content[i+1].Value)
			i++
		case v.Kind == yaml.MappingNode && len(v.Content) == 2:
			im.initdbOption(at, v.Content[0].Value, v.Content[1].Value)
		default:
			key, value, _ := strings.Cut(v.Value, "=")
			im.initdbOption(at, key, value)
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
		im.note(at, "%s: not an option of a new cluster; where pg_wal is a link, as in data that is taken over, a clone keeps it", text)
	case strings.HasPrefix(key, "auth"):
		im.note(at, "%s: a new cluster lets in by scram-sha-256, over the network and locally", text)
	default:
		im.note(at, "%s: not supported; an existing cluster is taken over as it is", text)
	}
}
