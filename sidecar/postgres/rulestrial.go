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

// TryRules has PostgreSQL read the settings' lines of pg_hba.conf and pg_ident.conf. What it
// refuses is ErrSetting. Where no server was made yet nothing is tried.
func (s *Server) TryRules(ctx context.Context, set Settings) error {
	if set.HBA == nil && set.Ident == nil {
		return nil
	}
	refused, err := s.tryAccess(ctx, accessLines{set.HBA, set.Ident})
	switch {
	case errors.Is(err, errUntried):
		return nil
	case err != nil:
		return err
	case len(refused) > 0:
		return fmt.Errorf("%w: %s", ErrSetting, strings.Join(refused, "; "))
	}
	return nil
}

// tryAccess has PostgreSQL read the lines as a start would, in a folder of its own: it ends
// right after, as that folder has no log. It returns those that PostgreSQL refused, with
// what it said of each. The error is errUntried, or that of the trial itself.
func (s *Server) tryAccess(ctx context.Context, try accessLines) (refused []string, err error) {
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
	switch {
	case saidRefused.MatchString(said.String()) || strings.Contains(said.String(), "required WAL directory"):
		return refused, nil
	}
	s.log.Warn("the lines of hba and ident were not tried: PostgreSQL ended before it read them", "error", err)
	return nil, fmt.Errorf("%w: %w", errUntried, err)
}

// refusedLines are the lines that PostgreSQL refused, with what it said of each.
func refusedLines(said string, try accessLines) []string {
	var all []string
	words := ""
	refuse := func(file, line string) {
		text := fmt.Sprintf("%s %q: %s", file, strings.TrimSpace(line), words)
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	refuseAt := func(file string, lines []string, number string) {
		if n, err := strconv.Atoi(number); err == nil && n >= 1 && n <= len(lines) {
			refuse(file, lines[n-1])
		}
	}
	for line := range strings.Lines(said) {
		if m := saidWords.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			words = m[1]
			if m := saidAtEnd.FindStringSubmatch(words); m != nil {
				words = m[1] + " " + m[2]
				refuseAt("ident", try.ident, m[3])
			}
			if m := saidPattern.FindStringSubmatch(words); m != nil {
				file, found := try.having("/" + m[1])
				refuse(file, found)
			}
		}
		m := saidOfLine.FindStringSubmatch(line)
		if m == nil || strings.Contains(words, "record cannot match because") {
			continue
		}
		if m[2] == "pg_ident" {
			refuseAt("ident", try.ident, m[1])
		} else {
			refuseAt("hba", try.hba, m[1])
		}
	}
	return all
}

// having finds the first line with a text.
func (try accessLines) having(text string) (file, line string) {
	for _, l := range try.ident {
		if strings.Contains(l, text) {
			return "ident", l
		}
	}
	for _, l := range try.hba {
		if strings.Contains(l, text) {
			return "hba", l
		}
	}
	return "ident", text
}
