package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// userConf is one of the data directory's files (postgresql.conf, pg_hba.conf,
// pg_ident.conf) with all that it includes, as one text, and where each of its lines came
// from. Where reading it failed, it is what comes before that.
type userConf struct {
	files rights.User
	syntax
	dir    string // relative to it is what lines of the configuration name
	text   string
	origin []origin // of line 1 and on
}

// syntax is how files of a kind name others.
type syntax struct {
	include *regexp.Regexp // a line that includes: the directive, and the name; nil: none does
	unquote func(name string) string
	// expand puts what a line names of other files in its place; nil: it names none.
	expand func(c *userConf, name, line string) (string, error)
}

var confSyntax = syntax{include: includeLine, unquote: settingValue}

// origin is a line of one of the user's files.
type origin struct {
	file string
	line int
}

// maxInclude is how deep files may include one another, as in PostgreSQL's
// guc-file.l (CONF_FILE_MAX_DEPTH).
const maxInclude = 10

// includeLine matches PostgreSQL's include directives (guc-file.l): a name in any case,
// an equals sign or none, and a value that is quoted or not.
var includeLine = regexp.MustCompile(`(?i)^\s*(include|include_if_exists|include_dir)\b\s*=?\s*('(?:[^'\\]|''|\\.)*'|[^'#\s]+)\s*(?:#.*)?$`)

// readUserConf reads the user's own file. One that is not there is empty.
func (s *Server) readUserConf() (userConf, error) {
	return s.readUsers("postgresql.conf", confSyntax)
}

// readUsers reads a file of the data directory.
func (s *Server) readUsers(name string, syntax syntax) (userConf, error) {
	c := userConf{files: s.files, syntax: syntax}
	name = s.data(name)
	if _, err := s.files.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	err := c.add(name, 0)
	return c, err
}

// add appends a file and, in their places, those that it includes.
func (c *userConf) add(name string, depth int) error {
	if depth > maxInclude {
		return fmt.Errorf("%s: files include one another more than %d deep: %w", name, maxInclude, ErrSetting)
	}
	content, err := c.files.ReadFile(name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetting, err)
	}
	return c.addText(name, string(content), depth)
}

// addText appends what a file has. It is read every few seconds, and in a failover, and
// mostly has hundreds of lines of comments: these are copied once.
func (c *userConf) addText(name, content string, depth int) error {
	n := 0
	var own strings.Builder // lines of this file that c.text has not yet
	flush := func() {
		c.text += own.String()
		own.Reset()
	}
	defer flush()
	for line := range strings.Lines(content) {
		n++
		line = strings.TrimRight(line, "\r\n")
		var err error
		if m := c.includes(line); m != nil {
			flush()
			err = c.readIncluded(strings.ToLower(m[1]), c.named(name, c.unquote(m[2])), depth)
		} else {
			if c.expand != nil {
				line, err = c.expand(c, name, line)
			}
			if err == nil {
				own.WriteString(line)
				own.WriteByte('\n')
				c.origin = append(c.origin, origin{name, n})
			}
		}
		if err != nil {
			return fmt.Errorf("%s line %d: %w", name, n, err)
		}
	}
	return nil
}

func (c *userConf) includes(line string) []string {
	if c.include == nil || !mayInclude(line) {
		return nil
	}
	return c.include.FindStringSubmatch(line)
}

// mayInclude is a cheap look before the regular expression: every directive begins with
// an i.
func mayInclude(line string) bool {
	line = strings.TrimLeft(line, " \t\n\f\r")
	return line != "" && (line[0] == 'i' || line[0] == 'I')
}

// named is the path that a file names, relative to itself.
func (c *userConf) named(in, value string) string {
	switch {
	case filepath.IsAbs(value):
		return value
	case in == "":
		return filepath.Join(c.dir, value)
	}
	return filepath.Join(filepath.Dir(in), value)
}

func (c *userConf) readIncluded(directive, path string, depth int) error {
	switch directive {
	case "include_if_exists":
		if _, err := c.files.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	case "include_dir":
		entries, err := c.files.ReadDir(path) // sorted as PostgreSQL does, by bytes
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSetting, err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), ".conf") {
				continue
			}
			if info, err := c.files.Stat(filepath.Join(path, e.Name())); err != nil || info.IsDir() {
				continue
			}
			if err := c.add(filepath.Join(path, e.Name()), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return c.add(path, depth+1)
}

// saidOfCopy finds what PostgreSQL says of a line of our copy: in a syntax error, in a
// value that it refuses, in a name that it does not know.
var saidOfCopy = regexp.MustCompile(`((?:in|of configuration) file|configuration file) "[^"]*/user\.conf[^"]*" line (\d+)`)

// What PostgreSQL says when it refuses a value: of the file no line, and the parameter
// before that (guc.c).
var (
	copyHasErrors = regexp.MustCompile(`configuration file "[^"]*/user\.conf[^"]*" contains errors`)
	saidParameter = regexp.MustCompile(`parameter "([^"]+)"`)
)

// lineOf is where a parameter is set last, which is what PostgreSQL takes.
func (c *userConf) lineOf(parameter string) (found origin) {
	sets := regexp.MustCompile(`(?i)^\s*` + regexp.QuoteMeta(parameter) + `\b`)
	n := 0
	for line := range strings.Lines(c.text) {
		if sets.MatchString(line) && n < len(c.origin) {
			found = c.origin[n]
		}
		n++
	}
	return found
}

// translate puts the user's own file and line in the place of our copy's.
func (c *userConf) translate(said string) string {
	said = copyHasErrors.ReplaceAllStringFunc(said, func(match string) string {
		var at origin
		if m := saidParameter.FindStringSubmatch(said); m != nil {
			at = c.lineOf(m[1])
		}
		switch {
		case at.file != "":
			return fmt.Sprintf("configuration file %q contains errors: line %d", at.file, at.line)
		case len(c.origin) > 0:
			return fmt.Sprintf("configuration file %q, or one that it includes, contains errors", c.origin[0].file)
		}
		return match
	})
	return saidOfCopy.ReplaceAllStringFunc(said, func(match string) string {
		m := saidOfCopy.FindStringSubmatch(match)
		n, err := strconv.Atoi(m[2])
		if err != nil || n < 1 || n > len(c.origin) {
			return match
		}
		return fmt.Sprintf("%s %q line %d", m[1], c.origin[n-1].file, c.origin[n-1].line)
	})
}

// userFile is our copy of the user's own file, with all that it includes. The server
// reads the copy: an edit that PostgreSQL does not take must not stop it from being
// fenced, promoted or started, and is said instead (ConfigProblem).
const userFile = "user.conf"

// keptUserConf returns the copy that PostgreSQL last took.
func (s *Server) keptUserConf() (string, bool) {
	content, err := s.files.ReadFile(s.state(userFile))
	return string(content), err == nil
}

// key tells one state of the user's files from another; err is what reading them gave.
func (c *userConf) key(err error) string { return fmt.Sprintf("%v\n%s", err, c.text) }

// chooseUserConf returns what the server is to read of the user's: what is there now
// if PostgreSQL takes it together with the settings, else the last that it took; and
// what synchronous_commit is then. The error is ErrSetting if it takes neither.
func (s *Server) chooseUserConf(ctx context.Context, set Settings) (text, commit string, err error) {
	if err := s.ensureControl(); err != nil {
		return "", "", err
	}
	now, err := s.readUserConf()
	key := now.key(err)
	if err == nil {
		if commit, err = s.tryConf(ctx, set, now.text); err == nil {
			var why string
			if why, err = s.startRefuses(ctx, set, &now); err == nil && why == "" {
				s.noteProblem("", key)
				return now.text, commit, nil
			}
			err = cmp.Or(err, errors.New(why))
		} else {
			err = errors.New(now.translate(err.Error()))
		}
	}
	kept, found := s.keptUserConf()
	if !found || ctx.Err() != nil {
		return "", "", fmt.Errorf("%w: %w", ErrSetting, err)
	}
	commit, refused := s.tryConf(ctx, set, kept)
	if refused != nil {
		return "", "", fmt.Errorf("%w: %w", ErrSetting, err)
	}
	s.noteProblem(err.Error(), key)
	return kept, commit, nil
}

// weakCommits are the values of synchronous_commit by which a commit is acknowledged
// before a standby has flushed it.
var weakCommits = []string{"off", "local", "remote_write"}

// tryConf asks PostgreSQL whether it takes the settings with this text of the user's,
// and returns what synchronous_commit is then.
func (s *Server) tryConf(ctx context.Context, set Settings, user string) (commit string, err error) {
	return s.askConf(ctx, set, user, "synchronous_commit")
}

// noteProblem keeps what is wrong with the user's file as it is now; empty: nothing.
func (s *Server) noteProblem(why, key string) {
	s.mu.Lock()
	was := s.problem
	s.problem, s.tried = why, key
	s.mu.Unlock()
	switch {
	case why != "" && why != was:
		s.log.Error("PostgreSQL rejected the data directory's configuration and keeps the last one that it accepted", "reason", why)
	case why == "" && was != "":
		s.log.Info("PostgreSQL accepts the data directory's configuration again")
	}
}

// ConfigProblem says, for people, what PostgreSQL does not take of the user's own
// files and rules, as last tried; the last that it took hold. Empty: nothing.
func (s *Server) ConfigProblem() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := slices.DeleteFunc([]string{s.problem, s.rules.hba.why, s.rules.ident.why, s.starts.auto.why}, func(s string) bool { return s == "" })
	return strings.Join(said, "; ")
}

// Refresh takes up the user's own files, those of access rules too, if they have changed
// since they were last tried. It reloads a running server then.
func (s *Server) Refresh(ctx context.Context) error {
	now, err := s.readUserConf()
	auto, unread := s.readAuto()
	s.mu.Lock()
	same, tried, hidden, set := now.key(err) == s.tried, s.rules.tried, s.hidden, s.settings
	s.mu.Unlock()
	same = same && (unread != nil || s.knownAuto(auto, false))
	if same && s.rulesKey(set) == tried {
		return nil
	}
	return s.reload(ctx, set, hidden)
}
