package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
)

// What the server says of a line of pg_hba.conf that it refuses (hba.c), and, after all
// of them, that it does not start with the file.
var (
	saidOfLine  = regexp.MustCompile(`^CONTEXT:\s+line (\d+) of configuration file "[^"]*/pg_hba\.conf"`)
	saidWords   = regexp.MustCompile(`^LOG:\s+(.*)$`)
	saidRefused = regexp.MustCompile(`(?m)^FATAL:\s+could not load .*pg_hba\.conf`)
)

// TryRules has PostgreSQL read the settings' lines of pg_hba.conf as a start would, in a
// folder of its own: it ends right after, as that folder has no log. What it refuses is
// ErrSetting. Where no server was made yet nothing is tried.
func (s *Server) TryRules(ctx context.Context, set Settings) error {
	if set.HBA == nil {
		return nil
	}
	control, err := s.files.ReadFile(s.data("global", "pg_control"))
	if _, made := s.files.Stat(s.o.StateDir); errors.Is(err, fs.ErrNotExist) || made != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("try the lines of hba: %w", err)
	}
	dir := s.state("rules.try-" + rand.Text()) // another process may try some too
	defer s.files.RemoveAll(dir)
	lines := strings.Join(set.HBA, "\n") + "\n"
	if err := s.layTrial(dir, map[string]string{"global/pg_control": string(control), "postgresql.conf": "", "pg_hba.conf": lines, "pg_ident.conf": ""}); err != nil {
		return err
	}
	if err := errors.Join(s.makeDir(s.sock), s.makeDir(dir+"/pg_notify")); err != nil { // the one that it reads before
		return err
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
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("try the lines of hba: %w", context.Cause(ctx))
	case saidRefused.MatchString(said.String()):
		return fmt.Errorf("%w: %s", ErrSetting, refusedLines(said.String(), set.HBA))
	case !strings.Contains(said.String(), "required WAL directory"):
		s.log.Warn("the lines of hba were not tried: PostgreSQL ended before it read them", "error", err)
	}
	return nil
}

// refusedLines are the lines that PostgreSQL refused, with what it said of each.
func refusedLines(said string, lines []string) string {
	var all []string
	words := ""
	for line := range strings.Lines(said) {
		if m := saidWords.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			words = m[1]
		}
		m := saidOfLine.FindStringSubmatch(line)
		if m == nil || strings.Contains(words, "record cannot match because") {
			continue
		}
		if n, err := strconv.Atoi(m[1]); err == nil && n >= 1 && n <= len(lines) {
			all = append(all, fmt.Sprintf("hba %q: %s", lines[n-1], words))
		}
	}
	return strings.Join(all, "; ")
}
