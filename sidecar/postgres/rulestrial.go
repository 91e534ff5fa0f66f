package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What the server says of a line of pg_hba.conf or pg_ident.conf that it refuses (hba.c),
// and, after all of those of pg_hba.conf, that it does not start with the file.
var (
	saidOfLine  = regexp.MustCompile(`^CONTEXT:\s+line (\d+) of configuration file "[^"]*/(pg_hba|pg_ident)\.conf"`)
	saidAtEnd   = regexp.MustCompile(`^(missing entry) in file "[^"]*/pg_ident\.conf" (at end of line) (\d+)$`) // until version 15
	saidPattern = regexp.MustCompile(`^invalid regular expression "(.*)": `)                                    // until version 15 without a CONTEXT
	saidWords   = regexp.MustCompile(`^LOG:\s+(.*)$`)
	saidRefused = regexp.MustCompile(`(?m)^FATAL:\s+could not load .*pg_hba\.conf`)
)

// errUntried is returned where no data directory was made yet, or PostgreSQL ended before
// it read the lines: nothing is known of them.
var errUntried = errors.New("the lines were not tried")

// accessLines are lines of pg_hba.conf and of pg_ident.conf.
type accessLines struct{ hba, ident []string }

// refusal is a line that PostgreSQL refuses.
type refusal struct {
	of    string // hba or ident
	line  int    // zero: it does not say which
	text  string
	words string // what it says
}

// TryRules has PostgreSQL read the settings' lines of pg_hba.conf and pg_ident.conf. What it
// refuses is ErrSetting. Where no server was made yet nothing is tried.
func (s *Server) TryRules(ctx context.Context, set Settings) error {
	if set.HBA == nil && set.Ident == nil {
		return nil
	}
	lines := map[string]userConf{}
	for f, configured := range map[ruleFile][]string{hbaFile: set.HBA, identFile: set.Ident} {
		if configured == nil {
			configured = []string{}
		}
		c, err := s.readRules(f, configured)
		if err != nil {
			return err
		}
		lines[f.of] = c
	}
	refused, err := s.tryAccess(ctx, accessLines{strings.Split(lines["hba"].text, "\n"), strings.Split(lines["ident"].text, "\n")})
	switch {
	case errors.Is(err, errUntried):
		return nil
	case err != nil:
		return err
	case len(refused) == 0:
		return nil
	}
	said := make([]string, len(refused))
	for i, r := range refused {
		c := lines[r.of]
		said[i] = c.place(r)
	}
	return fmt.Errorf("%w: %s", ErrSetting, strings.Join(said, "; "))
}

// tryAccess has PostgreSQL read the lines as a start would, in a folder of its own: it ends
// right after, as that folder has no log. It returns those that PostgreSQL refused, with
// what it said of each. The error is errUntried, or that of the trial itself.
func (s *Server) tryAccess(ctx context.Context, try accessLines) (refused []refusal, err error) {
	control, err := s.files.ReadFile(s.data("global", "pg_control"))
	if _, made := s.files.Stat(s.o.StateDir); errors.Is(err, fs.ErrNotExist) || made != nil {
		return nil, errUntried
	}
	if err != nil {
		return nil, fmt.Errorf("try the lines of hba and ident: %w", err)
	}
	dir := s.state("rules.try-" + rand.Text()) // another process may try some too
	defer s.files.RemoveAll(dir)
	if err := s.layTrial(dir, map[string]string{"global/pg_control": string(control), "postgresql.conf": "",
		"pg_hba.conf": strings.Join(try.hba, "\n") + "\nlocal all all peer\n", "pg_ident.conf": strings.Join(try.ident, "\n") + "\n"}); err != nil {
		return nil, err
	}
	if err := errors.Join(s.makeDir(s.sock), s.makeDir(dir+"/pg_notify")); err != nil { // the one that it reads before
		return nil, err
	}
	args := []string{"-D", dir, "-c", "config_file=" + dir + "/postgresql.conf", "-c", "data_directory=" + dir,
		"-c", "hba_file=" + dir + "/pg_hba.conf", "-c", "ident_file=" + dir + "/pg_ident.conf",
		"-c", "listen_addresses=", "-c", "unix_socket_directories=" + s.sock, "-c", "port=1", "-c", "shared_buffers=128kB", "-c", "huge_pages=off", "-c", "max_connections=5",
		"-c", "log_line_prefix=", "-c", "lc_messages=C", "-c", "log_destination=stderr", "-c", "logging_collector=off", "-c", "log_error_verbosity=default"}
	if tls := s.o.TLS; tls.CertFile != "" {
		args = append(args, "-c", "ssl=on", "-c", "ssl_cert_file="+tls.CertFile, "-c", "ssl_key_file="+tls.KeyFile, "-c", "ssl_ca_file="+tls.CAFile)
	}
	var said strings.Builder
	_, err = s.program(ctx, "postgres", args, runOptions{line: func(l string) { said.WriteString(l + "\n") }})
	if ctx.Err() != nil {
		return nil, fmt.Errorf("try the lines of hba and ident: %w", context.Cause(ctx))
	}
	refused = refusedLines(said.String(), try)
	if saidRefused.MatchString(said.String()) && !slices.ContainsFunc(refused, func(r refusal) bool { return r.of == hbaFile.of }) {
		refused = append(refused, refusal{of: hbaFile.of, words: "PostgreSQL does not say why it refuses the lines"})
	}
	switch {
	case saidRefused.MatchString(said.String()) || strings.Contains(said.String(), "required WAL directory"):
		return refused, nil
	}
	s.log.Warn("the lines of hba and ident were not tried: PostgreSQL ended before it read them", "error", err)
	return nil, fmt.Errorf("%w: %w", errUntried, err)
}

// refusedLines are the lines that PostgreSQL refused, with what it said of each.
func refusedLines(said string, try accessLines) []refusal {
	var all []refusal
	words := ""
	refuse := func(of string, lines []string, n int) {
		r := refusal{of: of, words: words}
		if n >= 1 && n <= len(lines) {
			r.line, r.text = n, lines[n-1]
		}
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	for line := range strings.Lines(said) {
		if m := saidWords.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			words = m[1]
			if m := saidAtEnd.FindStringSubmatch(words); m != nil {
				words = m[1] + " " + m[2]
				n, _ := strconv.Atoi(m[3]) // digits
				refuse(identFile.of, try.ident, n)
			}
			if m := saidPattern.FindStringSubmatch(words); m != nil {
				refuse(try.having("/" + m[1]))
			}
		}
		m := saidOfLine.FindStringSubmatch(line)
		if m == nil || strings.Contains(words, "record cannot match because") {
			continue
		}
		n, _ := strconv.Atoi(m[1]) // digits
		if m[2] == "pg_ident" {
			refuse(identFile.of, try.ident, n)
		} else {
			refuse(hbaFile.of, try.hba, n)
		}
	}
	return all
}

// having finds the first line with a text.
func (try accessLines) having(text string) (of string, lines []string, n int) {
	has := func(line string) bool { return strings.Contains(line, text) }
	if i := slices.IndexFunc(try.ident, has); i >= 0 {
		return identFile.of, try.ident, i + 1
	}
	if i := slices.IndexFunc(try.hba, has); i >= 0 {
		return hbaFile.of, try.hba, i + 1
	}
	return identFile.of, nil, 0
}
