package patroni

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrFile: the file is no patroni.yml that can be read.
var ErrFile = errors.New("not a patroni.yml")

// Result is what became of a patroni.yml.
type Result struct {
	// HCL is the text of a pg.hcl.
	HCL string
	// Secrets are the files that the pg.hcl names, by their path, with their text.
	Secrets map[string]string
	// Settings are commands that give the whole cluster what no member's file has.
	Settings []string
	// Notes are what a person should read, in the order of the file.
	Notes []Note
}

// Note is about one key.
type Note struct {
	Line int    // of the patroni.yml, from 1
	Key  string // its path, such as bootstrap.dcs.ttl
	Text string
}

// String is the note as a line.
func (n Note) String() string { return fmt.Sprintf("line %d: %s: %s", n.Line, n.Key, n.Text) }

// Import reads a patroni.yml. Secrets will be in files of the directory secretsDir,
// which is absolute. It returns ErrFile.
func Import(source []byte, secretsDir string) (*Result, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(source, &doc); err != nil {
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if strings.Contains(string(source), "\t") {
			text += " (it has tabs, which YAML does not allow for indentation: Patroni cannot read it either)"
		}
		return nil, fmt.Errorf("%w: %s", ErrFile, text)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%w: expected keys such as scope, name, consul and postgresql", ErrFile)
	}
	im := &importer{secretsDir: secretsDir, secrets: map[string]string{}, doc: newDocument(), from: map[string]string{}}
	im.root = doc.Content[0]
	if im.at("postgresql") == nil && im.at("scope") == nil {
		return nil, fmt.Errorf("%w: it has neither scope nor postgresql", ErrFile)
	}
	im.walk(im.root, "")
	im.finish()
	slices.SortStableFunc(im.notes, func(a, b Note) int { return a.Line - b.Line })
	return &Result{HCL: im.doc.String(), Secrets: im.secrets, Settings: im.settings, Notes: im.notes}, nil
}

// importer is one import under way.
type importer struct {
	root       *yaml.Node
	secretsDir string
	doc        *document
	secrets    map[string]string
	settings   []string
	notes      []Note

	parameters parameters
	hba        []hbaLines
	durability durability
	from       map[string]string // what a rule leaves for finish
}

// entry is one key with its value.
type entry struct {
	path  string // with a dot between keys
	line  int
	value *yaml.Node
}

// text is the value of a scalar; the empty text of anything else.
func (e entry) text() string {
	if e.value.Kind == yaml.AliasNode {
		return entry{value: e.value.Alias}.text()
	}
	return e.value.Value
}

// truth reads what YAML 1.1, which Patroni reads, takes for true.
func (e entry) truth() bool {
	return slices.Contains([]string{"true", "on", "yes", "1"}, strings.ToLower(e.text()))
}

// texts are the scalars of a list, or the one scalar.
func (e entry) texts() []string {
	switch e.value.Kind {
	case yaml.SequenceNode:
		var all []string
		for _, v := range e.value.Content {
			if v.Kind == yaml.ScalarNode {
				all = append(all, v.Value)
			}
		}
		return all
	case yaml.ScalarNode:
		return []string{e.value.Value}
	}
	return nil
}

// walk applies the rules to the keys of a mapping.
func (im *importer) walk(m *yaml.Node, prefix string) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], m.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		e := entry{path: join(prefix, key.Value), line: key.Line, value: value}
		rule, known := ruleFor(e.path)
		switch {
		case known:
			rule(im, e)
		case value.Kind == yaml.MappingNode && hasRulesUnder(e.path):
			im.walk(value, e.path)
		default:
			im.note(e, "this version of pgsidecar does not know it; see pgsidecar help patroni")
		}
	}
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// at returns the value at a path; nil: there is none.
func (im *importer) at(keys ...string) *yaml.Node {
	at := im.root
	for _, key := range keys {
		var next *yaml.Node
		for i := 0; at.Kind == yaml.MappingNode && i+1 < len(at.Content); i += 2 {
			if at.Content[i].Value == key {
				next = at.Content[i+1]
			}
		}
		if next == nil {
			return nil
		}
		at = next
	}
	return at
}

// note says something of a key.
func (im *importer) note(e entry, format string, args ...any) {
	im.notes = append(im.notes, Note{Line: e.line, Key: e.path, Text: fmt.Sprintf(format, args...)})
}

// secret puts a secret into a file, and returns its path.
func (im *importer) secret(name, value string) string {
	file := path.Join(im.secretsDir, name)
	im.secrets[file] = value + "\n"
	return file
}
