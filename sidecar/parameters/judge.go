package parameters

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Judge asks PostgreSQL's programs what they take. Its zero value is ready.
type Judge struct {
	mu    sync.Mutex // held while a program is asked: the next one finds its answer
	known map[string]*program
}

// program is what one program has said.
type program struct {
	version int
	names   []string // that it describes; it knows a few more
	// verdicts are why it refuses a parameter's value, by the name in lower case and the
	// value; empty: it takes it. One does not depend on another.
	verdicts map[[2]string]string
}

// ErrProgram: PostgreSQL's program could not be asked.
var ErrProgram = errors.New("PostgreSQL's server program cannot be asked")

// askTime bounds one question to the program.
const askTime = 20 * time.Second

// Refused returns why the server program in a directory, or on PATH if that is empty,
// does not take each of the parameters that it refuses, by their names.
func (j *Judge) Refused(ctx context.Context, binDir string, set map[string]string) (map[string]error, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	path, p, err := j.program(ctx, binDir)
	if err != nil {
		return nil, err
	}
	ask := map[string]string{}
	for name, value := range set {
		if _, is := p.verdicts[verdict(name, value)]; !is && pattern.MatchString(name) && !strings.ContainsAny(value, "\n\r\x00") {
			ask[name] = value
		}
	}
	if len(ask) > 0 {
		if err := p.ask(ctx, path, ask); err != nil {
			return nil, err
		}
	}
	_, elsewhere := set["dynamic_library_path"]
	refused := map[string]error{}
	for name, value := range set {
		if why := p.verdicts[verdict(name, value)]; why != "" {
			refused[name] = refuse(ErrValue, name, "%s", why)
		} else if why := missingLibrary(path, name, value); why != "" && !elsewhere {
			refused[name] = refuse(ErrValue, name, "%s", why)
		} else if why := notHere(set, name, value); why != "" {
			refused[name] = refuse(ErrValue, name, "%s", why)
		}
	}
	return refused, nil
}

// First is the first of what was refused, in the order of the names.
func First(refused map[string]error) error {
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		return refused[name]
	}
	return nil
}

func verdict(name, value string) [2]string { return [2]string{strings.ToLower(name), value} }

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// program finds the server program, and what is known of it. An upgrade puts another
// file in its place.
func (j *Judge) program(ctx context.Context, binDir string) (string, *program, error) {
	path := filepath.Join(binDir, "postgres")
	if binDir == "" {
		found, err := exec.LookPath("postgres")
		if err != nil {
			return "", nil, fmt.Errorf("%w: it is not on PATH; set bin_dir to where it is", ErrProgram)
		}
		path = found
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w; set bin_dir to where it is", ErrProgram, err)
	}
	key := fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano())
	if p, is := j.known[key]; is {
		return path, p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	said, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", nil, fmt.Errorf("%w: %s --version: %w", ErrProgram, path, err)
	}
	m := versionPattern.FindSubmatch(said)
	if m == nil {
		return "", nil, fmt.Errorf("%w: %s says of its version: %q", ErrProgram, path, said)
	}
	p := &program{verdicts: map[[2]string]string{}}
	p.version, _ = strconv.Atoi(string(m[1])) // digits, by the pattern
	described, err := exec.CommandContext(ctx, path, "--describe-config").Output()
	if err != nil {
		return "", nil, fmt.Errorf("%w: %s --describe-config: %w", ErrProgram, path, err)
	}
	for line := range strings.Lines(string(described)) {
		name, _, _ := strings.Cut(line, "\t")
		p.names = append(p.names, strings.TrimSpace(name))
	}
	if j.known == nil {
		j.known = map[string]*program{}
	}
	j.known[key] = p
	return path, p, nil
}

// What PostgreSQL says of a configuration file (guc.c, guc-file.l).
var (
	saidUnknown = regexp.MustCompile(`(?m)^LOG:\s+unrecognized configuration parameter "([^"]+)"`)
	saidRefused = regexp.MustCompile(`(?m)^LOG:\s+(.*\bparameter "([^"]+)".*)$`)
	saidMore    = regexp.MustCompile(`^(?:DETAIL|HINT):\s+(.*)$`)
	saidFatal   = "contains errors"
)

// ask has the program read a file with the parameters. It names all that it does not
// know at once, and only without them all values that it refuses.
func (p *program) ask(ctx context.Context, path string, set map[string]string) error {
	said, err := read(ctx, path, set)
	if err != nil {
		return err
	}
	rest := maps.Clone(set)
	for _, m := range saidUnknown.FindAllStringSubmatch(said, -1) {
		for name := range set {
			if strings.EqualFold(name, m[1]) {
				p.verdicts[verdict(name, set[name])] = unknown(name, p.version, p.names)
				delete(rest, name)
			}
		}
	}
	if len(rest) < len(set) && len(rest) > 0 {
		if said, err = read(ctx, path, rest); err != nil {
			return err
		}
	}
	why := refusals(said)
	verdicts := map[[2]string]string{}
	for name, value := range rest {
		verdicts[verdict(name, value)] = why[strings.ToLower(name)]
		delete(why, strings.ToLower(name))
	}
	switch {
	case len(why) == 0 || len(rest) == 0:
	case len(rest) == 1: // by another name that it had earlier
		for key := range verdicts {
			verdicts[key] = First(asErrors(why)).Error()
		}
	default:
		for name, value := range rest {
			if err := p.ask(ctx, path, map[string]string{name: value}); err != nil {
				return err
			}
		}
		return nil
	}
	maps.Copy(p.verdicts, verdicts)
	return nil
}

func asErrors(why map[string]string) map[string]error {
	all := map[string]error{}
	for name, text := range why {
		all[name] = errors.New(text)
	}
	return all
}

// refusals are what PostgreSQL says of each parameter that it refuses, by the name in
// lower case.
func refusals(said string) map[string]string {
	why, last := map[string]string{}, ""
	for line := range strings.Lines(said) {
		line = strings.TrimRight(line, "\n")
		if m := saidRefused.FindStringSubmatch(line); m != nil {
			last = strings.ToLower(m[2])
			if why[last] == "" {
				why[last] = strings.TrimPrefix(m[1], `parameter "`+m[2]+`" `)
			}
		} else if m := saidMore.FindStringSubmatch(line); m != nil && last != "" {
			why[last] += ". " + strings.TrimRight(m[1], ".")
		}
	}
	return why
}

// read has the program read a file of these parameters, and returns what it says of it.
// It prints one parameter, and ends: nothing is started, and as the first argument is -C
// it does so for root too.
func read(ctx context.Context, path string, set map[string]string) (string, error) {
	dir, err := os.MkdirTemp("", "pgsidecar-judge-")
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrProgram, err)
	}
	defer os.RemoveAll(dir)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(set)) {
		text.WriteString(name + " = '" + strings.NewReplacer("'", "''", `\`, `\\`).Replace(set[name]) + "'\n")
	}
	file := filepath.Join(dir, "postgresql.conf")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return "", fmt.Errorf("%w: %w", ErrProgram, err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	// The last ones keep what is said in English and free of what the file says of it.
	cmd := exec.CommandContext(ctx, path, "-C", "data_directory", "-D", dir, "-c", "config_file="+file,
		"-c", "log_line_prefix=", "-c", "lc_messages=C", "-c", "log_destination=stderr", "-c", "log_min_messages=warning", "-c", "log_error_verbosity=default")
	cmd.Env = []string{"LC_ALL=C.UTF-8", "LC_MESSAGES=C", "PATH=" + filepath.Dir(path) + ":/usr/bin:/bin"}
	cmd.Dir = "/"
	var said bytes.Buffer
	cmd.Stderr = &said
	err = cmd.Run()
	if err != nil && !strings.Contains(said.String(), saidFatal) {
		return "", fmt.Errorf("%w: %s -C: %w: %s", ErrProgram, path, err, strings.TrimSpace(said.String()))
	}
	return said.String(), nil
}
