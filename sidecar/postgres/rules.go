package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// rules are the user's lines of pg_hba.conf that PostgreSQL does not take.
type rules struct {
	refused string // as they are; empty: none were refused
	why     string // in PostgreSQL's words
	ident   string // what it said of the lines of pg_ident.conf that it does not take (mapLines)
	maps    string // those lines of pg_ident.conf: they are not tried again in a failover
	tried   string // the lines of both files that were last written for the server (rulesKey)
}

// rulesKey tells one state of the user's lines of pg_hba.conf and pg_ident.conf, or of what
// keeps them from being read, from another.
func (s *Server) rulesKey(set Settings) string {
	hba, noHBA := s.usersLines("pg_hba.conf", set.HBA)
	ident, noIdent := s.usersLines("pg_ident.conf", set.Ident)
	return fmt.Sprintf("%v\n%v\n%s\n%s", noHBA, noIdent, hba, ident)
}

// provenMaps is the file of the user's lines of pg_ident.conf that PostgreSQL last took.
const provenMaps = "pg_ident.proven"

// mapLines returns the user's lines of pg_ident.conf, or those that PostgreSQL last took
// where it refuses one of these: with one bad line it takes none of the file (PostgreSQL
// documentation, 21.2; measured: a server that starts with it maps nobody), so that the
// sidecar could not log in any more. Lines that it has not taken yet are tried first.
func (s *Server) mapLines(ctx context.Context, set Settings) (string, error) {
	lines, err := s.usersLines("pg_ident.conf", set.Ident)
	if err != nil {
		return "", err
	}
	proven, err := s.files.ReadFile(s.state(provenMaps))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the lines of pg_ident.conf that PostgreSQL took: %w", err)
	}
	if lines == string(proven) || onlyComments(lines) {
		s.noteMaps("", "")
		return lines, nil
	}
	s.mu.Lock()
	known := lines == s.rules.maps
	s.mu.Unlock()
	if known {
		return string(proven), nil
	}
	refused, err := s.tryAccess(ctx, accessLines{ident: strings.Split(lines, "\n")})
	switch {
	case err == errUntried: // no data yet: the next start tries them
		return string(proven), nil
	case errors.Is(err, errUntried): // nor does anybody know that PostgreSQL would take them
		s.noteMaps("pg_ident.conf: "+err.Error(), "")
		return string(proven), nil
	case err != nil:
		return "", err
	case len(refused) > 0:
		s.noteMaps("pg_ident.conf: "+strings.Join(refused, "; "), lines)
		return string(proven), nil
	}
	s.noteMaps("", "")
	return lines, s.write(s.state(provenMaps), []byte(lines))
}

// noteMaps keeps why lines of pg_ident.conf are left out, and those that PostgreSQL refused.
func (s *Server) noteMaps(why, refused string) {
	s.mu.Lock()
	was := s.rules.ident
	s.rules.ident, s.rules.maps = why, refused
	s.mu.Unlock()
	if why != "" && why != was {
		s.log.Error("lines of pg_ident.conf are left out; the last ones that PostgreSQL accepted are used", "reason", why)
	}
}

// onlyComments tells whether a file has nothing that PostgreSQL reads.
func onlyComments(text string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return false
		}
	}
	return true
}

// provenRules is the file of the user's lines that PostgreSQL last took. Nothing but a
// running server can tell: it keeps what it had read before when it is to read lines
// that it does not take, but a start with them fails.
const provenRules = "pg_hba.proven"

// readable returns the user's lines of pg_hba.conf, or those that PostgreSQL last took
// in the place of the ones that it refused; none, if it never took any: a server that
// only members reach can still vote and be looked at.
func (s *Server) readable(lines string) string {
	s.mu.Lock()
	refused := s.rules.refused
	if refused != "" && lines != refused { // somebody has changed them
		s.rules.refused, s.rules.why = "", ""
		refused = ""
	}
	s.mu.Unlock()
	if refused == "" {
		return lines
	}
	proven, err := s.files.ReadFile(s.state(provenRules))
	if err != nil {
		return "# PostgreSQL refuses the lines of " + s.data("pg_hba.conf") + ".\n"
	}
	return string(proven)
}

// JudgeRules takes over what the running server says of the lines of pg_hba.conf that
// it was last given (package checks's WrongLines). Lines that it refuses are taken out
// of the file that the next start reads.
func (s *Server) JudgeRules(wrong []string) error {
	set := s.current()
	wrong = slices.DeleteFunc(slices.Clone(wrong), func(w string) bool { return !strings.HasPrefix(w, "hba: ") })
	lines, err := s.usersLines("pg_hba.conf", set.HBA)
	if err != nil {
		return err
	}
	content, err := s.files.ReadFile(s.state("pg_hba.conf"))
	if err != nil || !strings.HasSuffix(string(content), lines) || s.isHidden() {
		return nil // other lines were given to it: these are not judged
	}
	if len(wrong) > 0 {
		return s.refuse(lines, strings.Join(wrong, "; "))
	}
	if was, err := s.files.ReadFile(s.state(provenRules)); err == nil && string(was) == lines {
		return nil
	}
	return s.write(s.state(provenRules), []byte(lines))
}

// refuse notes that PostgreSQL does not take the user's lines, and writes the file as
// the next start is to read it.
func (s *Server) refuse(lines, why string) error {
	s.mu.Lock()
	s.rules.refused, s.rules.why = lines, "pg_hba.conf: "+strings.TrimPrefix(why, "hba: ")
	set, hidden := s.settings, s.hidden
	s.mu.Unlock()
	s.log.Error("PostgreSQL rejected the lines of pg_hba.conf and keeps the last ones that it accepted", "reason", why)
	hba, err := s.renderHBA(set, hidden)
	if err != nil {
		return err
	}
	return s.write(s.state("pg_hba.conf"), []byte(hba))
}

// judgeByLog finds, before a start, that the last one failed by the same lines: a
// server that was stopped when they were edited.
func (s *Server) judgeByLog() error {
	words := s.LastWords()
	if !strings.Contains(words, "could not load") || !strings.Contains(words, "pg_hba.conf") {
		return nil
	}
	lines, err := s.usersLines("pg_hba.conf", s.current().HBA)
	if err != nil {
		return err
	}
	content, err := s.files.ReadFile(s.state("pg_hba.conf"))
	if err != nil || lines == "" || !strings.HasSuffix(string(content), lines) {
		return nil
	}
	return s.refuse(lines, "the server did not start: "+words)
}
