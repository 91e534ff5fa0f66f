package command

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
)

// Format is what the list command prints.
type Format string

// The formats of lists.
const (
	Native Format = "pgsidecar" // a JSON array of backup.Backup
	WALG   Format = "wal-g"     // wal-g backup-list --detail --json
)

// Config is the commands, and what they are about.
type Config struct {
	Commands map[string][]string // by the names in the package comment
	Format   Format              // empty: Native
	Dir      string              // absolute, ours alone: for the environment and fetched files
	DataDir  string              // absolute: the server's
	User     program.User
	// Environment is set for each command; Secrets too, with what the files hold.
	Environment map[string]string
	Secrets     map[string]string
	Retention   backup.Retention
	SegmentSize int64 // bytes; 0: 16 MiB
}

// placeholders are what each command may have.
var placeholders = map[string][]string{
	"prepare": {"data_dir"}, "archive": {"path", "name"}, "fetch": {"path", "name"}, "backup": {"kind", "data_dir"},
	"list": nil, "wal": nil, "restore": {"label", "data_dir"}, "expire": {"full", "days", "label"}, "check": {"data_dir"},
}

// needs are the commands without which there is no engine, and what each must name.
var needs = map[string][]string{"archive": {"path"}, "fetch": {"path", "name"}, "backup": nil, "list": nil, "restore": {"data_dir", "label"}}

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Validate returns all that is wrong, each an ErrSetting. It reads no file.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: "+format, append([]any{backup.ErrSetting}, args...)...))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Commands)) {
		allowed, known := placeholders[name]
		words := c.Commands[name]
		switch {
		case !known:
			fault("command %q is not one of %s", name, strings.Join(slices.Sorted(maps.Keys(placeholders)), ", "))
			continue
		case len(words) == 0 || words[0] == "":
			fault("command %s is empty", name)
			continue
		}
		used, err := uses(words)
		if err != nil {
			fault("command %s: %v", name, err)
		}
		for _, p := range used {
			if !slices.Contains(allowed, p) {
				fault("command %s has no {%s}; a brace is written {{", name, p)
			}
		}
		for _, p := range needs[name] {
			if !slices.Contains(used, p) {
				fault("command %s must have {%s}", name, p)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		if _, given := c.Commands[name]; !given {
			fault("command %s is missing", name)
		}
	}
	if c.Format != "" && c.Format != Native && c.Format != WALG {
		fault("format %q; expected pgsidecar or wal-g", c.Format)
	}
	for _, dir := range []string{c.Dir, c.DataDir} {
		if !filepath.IsAbs(dir) {
			fault("directory %q; expected an absolute path", dir)
		}
	}
	for _, set := range []map[string]string{c.Environment, c.Secrets} {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			if !variable.MatchString(name) || strings.ContainsRune(set[name], 0) {
				fault("variable %q; expected letters, digits and underscores", name)
			}
		}
	}
	return errors.Join(faults...)
}

var errBrace = errors.New("a brace that nothing closes; a brace is written {{")

// uses lists the placeholders of a command.
func uses(words []string) ([]string, error) {
	var all []string
	for _, w := range words {
		_, err := expandWord(w, func(name string) (string, error) { all = append(all, name); return "", nil }, keep)
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func keep(s string) string { return s }

// expand replaces the placeholders of a command. literal is applied to what is
// between them.
func expand(words []string, values map[string]string, literal func(string) string) ([]string, error) {
	all := make([]string, len(words))
	for i, w := range words {
		var err error
		all[i], err = expandWord(w, func(name string) (string, error) {
			v, known := values[name]
			if !known {
				return "", fmt.Errorf("%w: no value for {%s}", backup.ErrSetting, name)
			}
			return v, nil
		}, literal)
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func expandWord(w string, value func(name string) (string, error), literal func(string) string) (string, error) {
	var b strings.Builder
	for {
		i := strings.IndexByte(w, '{')
		if i < 0 {
			b.WriteString(literal(w))
			return b.String(), nil
		}
		b.WriteString(literal(w[:i]))
		if w = w[i+1:]; strings.HasPrefix(w, "{") {
			b.WriteByte('{')
			w = w[1:]
			continue
		}
		name, rest, found := strings.Cut(w, "}")
		if !found {
			return "", errBrace
		}
		v, err := value(name)
		if err != nil {
			return "", err
		}
		b.WriteString(v)
		w = rest
	}
}

// environmentFile is what a shell reads before it runs a command.
func (c Config) environmentFile() string { return filepath.Join(c.Dir, "environment") }

// writeEnvironment brings the environment to disk as it is now.
func (c Config) writeEnvironment() error {
	all := maps.Clone(c.Environment)
	if all == nil {
		all = map[string]string{}
	}
	for name, file := range c.Secrets {
		content, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read the secret %s: %w", name, err)
		}
		all[name] = strings.TrimRight(string(content), "\r\n")
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "export %s=%s\n", name, program.Quote(all[name]))
	}
	if err := c.User.Files().MakeDir(c.Dir); err != nil {
		return fmt.Errorf("make the folder of backups: %w", err)
	}
	if old, err := c.User.Files().ReadFile(c.environmentFile()); err == nil && string(old) == b.String() {
		return nil
	}
	if err := c.User.Files().ReplaceSync(c.environmentFile(), []byte(b.String())); err != nil {
		return fmt.Errorf("write the environment of backups: %w", err)
	}
	return nil
}

// withEnvironment puts a shell before the words that sets the environment first.
func (c Config) withEnvironment(words []string) []string {
	if len(c.Environment)+len(c.Secrets) == 0 {
		return words
	}
	return append([]string{"/bin/sh", "-c", `. "$0" && exec "$@"`, c.environmentFile()}, words...)
}
