package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// autoFile is ALTER SYSTEM's. PostgreSQL reads it last, does not start by a line in it that
// it does not take, and takes nothing of a reload, ours included, beside one that it cannot
// read. refusedAuto is where it is kept before lines are taken out of it.
const (
	autoFile    = "postgresql.auto.conf"
	refusedAuto = "postgresql.auto.conf.refused"
)

// starts are what the trials of a start said that were last made, and what the next start
// is to do.
type starts struct {
	auto alteredFile
	key  string // which text of the user's, with which parameters
	why  string // why a start fails by it; empty: it does not

	plain bool // SpeakPlainly: the next start is to
}

// alteredFile is what was found out about one state of autoFile.
type alteredFile struct {
	text string // as last tried; or as it was left
	why  string // what PostgreSQL refuses of it, for people; empty: nothing
	cut  bool   // that is not in it any more
}

// readAuto reads autoFile; one that is not there is empty.
func (s *Server) readAuto() (string, error) {
	content, err := s.files.ReadFile(s.data(autoFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read %s: %w", autoFile, err)
	}
	return string(content), nil
}

// mendAuto tries a start with autoFile as it is, if that has changed. What would undo a
// reload is taken out of it; what only a start fails by is too if one is to follow, and
// else said: it is a person's to take back.
func (s *Server) mendAuto(ctx context.Context, set Settings, starting bool) error {
	text, err := s.readAuto()
	if err != nil {
		return err
	}
	if s.knownAuto(text, starting) {
		return nil
	}
	if onlyComments(text) {
		s.noteAuto(alteredFile{text: text})
		return nil
	}
	user, found := s.keptUserConf()
	if !found {
		now, err := s.readUserConf()
		if err != nil {
			return nil // that is said by itself
		}
		user = now.text
	}
	try := func(auto string) error { return s.tryStartWith(ctx, set, confTexts{user, auto}) }
	refused := try(text)
	blamed := refused != nil && try("") == nil // else taking lines out would not help
	switch {
	case ctx.Err() != nil: // that is what it was refused by
		return context.Cause(ctx)
	case !blamed:
		s.noteAuto(alteredFile{text: text})
		return nil
	}
	said := strings.TrimPrefix(refused.Error(), ErrSetting.Error()+": ")
	if _, unread := s.askTrial(ctx, set, confTexts{user, text}, "synchronous_commit"); unread == nil && !starting {
		s.noteAuto(alteredFile{text: text, why: "the server would not start with what ALTER SYSTEM has set; ALTER SYSTEM RESET takes it back: " + said})
		return nil
	}
	return s.cutAuto(text, said, try)
}

// knownAuto reports whether autoFile was tried as it is. That lines were taken out of it is
// said until somebody removes the file that has them.
func (s *Server) knownAuto(text string, starting bool) bool {
	s.mu.Lock()
	was := s.starts.auto
	s.mu.Unlock()
	switch {
	case text != was.text:
		return false
	case was.cut:
		_, err := s.files.Lstat(s.state(refusedAuto))
		return err == nil
	}
	return was.why == "" || !starting
}

// cutAuto takes the lines out of autoFile that a start does not bear.
func (s *Server) cutAuto(text, said string, try func(auto string) error) error {
	var kept strings.Builder
	var cut []string
	for line := range strings.Lines(text) {
		if !onlyComments(line) && try(kept.String()+line) != nil {
			name, _, _ := strings.Cut(strings.TrimSpace(line), "=")
			cut = append(cut, strings.TrimSpace(name))
			continue
		}
		kept.WriteString(line)
	}
	if err := s.write(s.state(refusedAuto), []byte(text)); err != nil {
		return err
	}
	path := s.data(autoFile)
	if real, err := s.files.EvalSymlinks(path); err == nil {
		path = real // a link stays one
	}
	if err := s.write(path, []byte(kept.String())); err != nil {
		s.noteAuto(alteredFile{text: text, why: fmt.Sprintf("take %s out of %s, which cannot be written (%v): %s", strings.Join(cut, ", "), path, err, said)})
		return nil
	}
	s.noteAuto(alteredFile{text: kept.String(), cut: true, why: fmt.Sprintf("%s was taken out of %s (%s); %s has it as it was: remove that when you have read it",
		strings.Join(cut, ", "), autoFile, said, s.state(refusedAuto))})
	return nil
}

func (s *Server) noteAuto(a alteredFile) {
	s.mu.Lock()
	was := s.starts.auto
	s.starts.auto = a
	s.mu.Unlock()
	if a.why != "" && a.why != was.why {
		s.log.Error("PostgreSQL does not start with what ALTER SYSTEM has set", "reason", a.why)
	}
}

// startRefuses says why the server would not start with a text of the user's that it can
// read, and would with the one that is kept; empty: it would, or it is not to blame.
func (s *Server) startRefuses(ctx context.Context, set Settings, now *userConf) (string, error) {
	kept, found := s.keptUserConf()
	if !found || kept == now.text {
		return "", nil
	}
	key := now.key(nil) + fmt.Sprint(set.Parameters)
	s.mu.Lock()
	last := s.starts
	s.mu.Unlock()
	if last.key == key {
		return last.why, nil
	}
	auto, err := s.readAuto()
	if err != nil {
		return "", err
	}
	why := ""
	try := func(text string) error { return s.tryStartWith(ctx, set, confTexts{text, auto}) }
	if refused := try(now.text); refused != nil && try(kept) == nil {
		why = strings.TrimPrefix(refused.Error(), ErrSetting.Error()+": ")
		if at := now.blame(kept, try); at.file != "" {
			why = fmt.Sprintf("%s line %d: the server would not start: %s", at.file, at.line, why)
		}
	}
	if ctx.Err() != nil { // that is what it was refused by
		return "", context.Cause(ctx)
	}
	s.mu.Lock()
	s.starts.key, s.starts.why = key, why
	s.mu.Unlock()
	return why, nil
}

// settingsBear refuses settings that a start would fail by, in PostgreSQL's own judgement, and
// would not by those before: a member may lack a library that the others have.
func (s *Server) settingsBear(ctx context.Context, set, before Settings, user string) error {
	auto, err := s.readAuto()
	if err != nil {
		return err
	}
	if _, err := s.files.Stat(s.data("global", "pg_control")); s.version < 15 || err != nil {
		return nil // there is no server yet, or it cannot be tried
	}
	try := func(set Settings) error {
		_, err := s.askTrial(ctx, set, confTexts{user, auto}, "shared_memory_size")
		return err
	}
	refused := try(set)
	if refused == nil || try(before) != nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrSetting, strings.ReplaceAll(refused.Error(), s.state("try"), s.o.DataDir))
}

// mostBlamed bounds the lines that are tried to find the one that a start fails by.
const mostBlamed = 20

// blame finds the line without which a start would not fail, of those that are new.
func (c *userConf) blame(kept string, try func(text string) error) origin {
	old := map[string]bool{}
	for line := range strings.Lines(kept) {
		old[line] = true
	}
	lines := strings.SplitAfter(c.text, "\n")
	tries := 0
	for i := len(c.origin) - 1; i >= 0 && tries < mostBlamed; i-- {
		if old[lines[i]] || onlyComments(lines[i]) {
			continue
		}
		tries++
		if try(strings.Join(lines[:i], "")+strings.Join(lines[i+1:], "")) == nil {
			return c.origin[i]
		}
	}
	return origin{}
}
