package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// ruleFile is one of the two files of access rules.
type ruleFile struct {
	name   string // as the data directory has it, and the state directory
	proven string // keeps the user's lines that PostgreSQL last took
	of     string // "hba" or "ident", as the configuration names its lines
}

// With one line that it does not take PostgreSQL does not start by a pg_hba.conf, and by a
// pg_ident.conf it maps nobody (PostgreSQL documentation, 21.2; measured), so that the
// sidecar could not log in any more.
var (
	hbaFile   = ruleFile{"pg_hba.conf", "pg_hba.proven", "hba"}
	identFile = ruleFile{"pg_ident.conf", "pg_ident.proven", "ident"}
)

// rules are what is known of the user's lines of both files.
type rules struct {
	hba, ident judged
	tried      string // the lines that were last written for the server (rulesKey)
}

// judged is what PostgreSQL said of one state of the user's lines: that is not asked again,
// which would cost time in a failover.
type judged struct {
	key    string // which state (userConf.key)
	why    string // why it is left out, for people; empty: PostgreSQL takes it
	before string // the lines before the first one that it refused
}

// of are those of a file.
func (r *rules) of(f ruleFile) *judged {
	if f == hbaFile {
		return &r.hba
	}
	return &r.ident
}

// rulesKey tells one state of the user's lines of both files, or of what keeps them from
// being read, from another.
func (s *Server) rulesKey(set Settings) string {
	hba, noHBA := s.readRules(hbaFile, set.HBA)
	ident, noIdent := s.readRules(identFile, set.Ident)
	return hba.key(noHBA) + "\n" + ident.key(noIdent)
}

// acceptedRules returns the user's lines of a file, or where PostgreSQL refuses one of
// them those that it last took. If it never took any, those before the refused one: for
// whom they say nothing the refused line, or a later one, may have been meant, and nobody
// gets in by a line that another was to come before.
func (s *Server) acceptedRules(ctx context.Context, f ruleFile, configured []string) (string, error) {
	now, err := s.readRules(f, configured)
	proven, found, wrong := s.provenRules(f)
	if wrong != nil {
		return "", wrong
	}
	if err == nil && (found && now.text == proven || onlyComments(now.text)) {
		s.noteRules(f, judged{key: now.key(nil)})
		return now.text, nil
	}
	j := s.judgedRules(f)
	if key := now.key(err); j.key != key {
		if j, err = s.tryRules(ctx, f, now, err); err != nil {
			return "", err
		}
		s.noteRules(f, j)
	}
	switch {
	case j.why == "":
		return now.text, nil
	case found:
		return proven, nil
	}
	return j.before, nil
}

// tryRules has PostgreSQL judge the lines of a file, or what kept one from being read.
func (s *Server) tryRules(ctx context.Context, f ruleFile, now userConf, unread error) (judged, error) {
	j := judged{key: now.key(unread)}
	if unread != nil {
		j.why, j.before = strings.ReplaceAll(unread.Error(), ErrSetting.Error()+": ", ""), now.text
		return j, nil
	}
	try := accessLines{hba: strings.Split(now.text, "\n")}
	if f == identFile {
		try = accessLines{ident: strings.Split(now.text, "\n")}
	}
	refused, err := s.tryAccess(ctx, try)
	switch {
	case errors.Is(err, errUntried): // nor does anybody know that PostgreSQL would take them
		j.why = f.name + ": " + err.Error()
		if err == errUntried { // there are no data yet: the next start tries them
			j = judged{}
		}
	case err != nil:
		return j, err
	case len(refused) > 0:
		said := make([]string, len(refused))
		for i, r := range refused {
			said[i] = now.place(r)
		}
		j.why, j.before = strings.Join(said, "; "), now.before(refused)
	case f == identFile: // of these the running server has nothing to say
		return j, s.write(s.state(f.proven), []byte(now.text))
	}
	return j, nil
}

// place says where a refused line is, and what PostgreSQL said of it.
func (c *userConf) place(r refusal) string {
	if r.line < 1 || r.line > len(c.origin) {
		return fmt.Sprintf("pg_%s.conf: %s", r.of, r.words)
	}
	at := c.origin[r.line-1]
	if at.file == "" {
		return fmt.Sprintf("%s %q: %s", r.of, strings.TrimSpace(r.text), r.words)
	}
	return fmt.Sprintf("%s line %d: %s", at.file, at.line, r.words)
}

// before are the lines before the first refused one; none if one of those is not known.
func (c *userConf) before(refused []refusal) string {
	first := slices.MinFunc(refused, func(a, b refusal) int { return a.line - b.line }).line
	if first < 1 || first > len(c.origin) {
		return ""
	}
	return strings.Join(strings.SplitAfter(c.text, "\n")[:first-1], "")
}

// provenRules are the user's lines that PostgreSQL last took, if it ever took any.
func (s *Server) provenRules(f ruleFile) (lines string, found bool, err error) {
	content, err := s.files.ReadFile(s.state(f.proven))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read the lines of %s that PostgreSQL took: %w", f.name, err)
	}
	return string(content), true, nil
}

func (s *Server) judgedRules(f ruleFile) judged {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.rules.of(f)
}

func (s *Server) noteRules(f ruleFile, j judged) {
	s.mu.Lock()
	was := *s.rules.of(f)
	*s.rules.of(f) = j
	s.mu.Unlock()
	switch {
	case j.why != "" && j.why != was.why:
		s.log.Error("PostgreSQL does not take the lines of "+f.name+"; the last ones that it accepted are used", "reason", j.why)
	case j.why == "" && was.why != "":
		s.log.Info("PostgreSQL accepts the lines of " + f.name + " again")
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

// JudgeRules takes over what the running server says of the lines of pg_hba.conf that
// it was last given (package checks's WrongLines), which it has read where the trial did
// not. Lines that it refuses are taken out of the file that the next start reads.
func (s *Server) JudgeRules(wrong []string) error {
	wrong = slices.DeleteFunc(slices.Clone(wrong), func(w string) bool { return !strings.HasPrefix(w, "hba: ") })
	now, given, err := s.givenRules()
	if err != nil || !given || s.isHidden() {
		return err // other lines were given to it: these are not judged
	}
	if len(wrong) > 0 {
		return s.refuse(now, strings.Join(wrong, "; "))
	}
	if was, found, err := s.provenRules(hbaFile); err != nil || found && was == now.text {
		return err
	}
	return s.write(s.state(hbaFile.proven), []byte(now.text))
}

// givenRules returns the user's lines of pg_hba.conf, if they are those that the server
// has or will start with.
func (s *Server) givenRules() (now userConf, given bool, err error) {
	now, err = s.readRules(hbaFile, s.current().HBA)
	if err != nil {
		return now, false, nil // ConfigProblem says it
	}
	content, err := s.files.ReadFile(s.state(hbaFile.name))
	if errors.Is(err, fs.ErrNotExist) {
		return now, false, nil
	}
	if err != nil {
		return now, false, fmt.Errorf("read the server's own pg_hba.conf: %w", err)
	}
	return now, strings.HasSuffix(string(content), usersHead+now.text), nil
}

// refuse notes that the server does not take the user's lines of pg_hba.conf, which the
// trial took, and writes the file as the next start is to read it.
func (s *Server) refuse(now userConf, why string) error {
	s.noteRules(hbaFile, judged{key: now.key(nil), why: "pg_hba.conf: " + strings.TrimPrefix(why, "hba: ")})
	lines, found, err := s.provenRules(hbaFile)
	if err != nil {
		return err
	}
	if found && lines == now.text { // it took them once
		if err := s.remove(s.state(hbaFile.proven)); err != nil {
			return err
		}
		lines = ""
	}
	return s.write(s.state(hbaFile.name), []byte(s.ourRules(false)+usersHead+lines))
}

// judgeByLog finds, before a start, that the last one failed by the same lines, although
// the trial took them.
func (s *Server) judgeByLog() error {
	words := s.LastWords()
	if !strings.Contains(words, "could not load") || !strings.Contains(words, hbaFile.name) {
		return nil
	}
	now, given, err := s.givenRules()
	if err != nil || !given || onlyComments(now.text) {
		return err
	}
	return s.refuse(now, "the server did not start: "+words)
}
