package postgres

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
)

// confAnswers are what PostgreSQL said of configurations that it took. Each question is a
// process, which on a slow machine costs tens of milliseconds of a processor; in a failover
// the same few are asked again, of the same files. What it refused is asked anew.
type confAnswers struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]string // at most maxAnswers
}

// maxAnswers is more than a server asks of one state of its files: as a primary and as a
// standby, hidden or not, of each limit.
const maxAnswers = 64

func (a *confAnswers) get(question [sha256.Size]byte) (answer string, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	answer, known = a.known[question]
	return answer, known
}

func (a *confAnswers) keep(question [sha256.Size]byte, answer string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) >= maxAnswers {
		a.known = map[[sha256.Size]byte]string{}
	}
	a.known[question] = answer
}

// confQuestion is all that an answer depends on: the program, and the text of each file
// that it reads.
func (s *Server) confQuestion(set Settings, user, parameter string) (question [sha256.Size]byte, err error) {
	program, err := s.files.Stat(filepath.Join(s.o.BinDir, "postgres"))
	if err != nil {
		return question, fmt.Errorf("look at PostgreSQL's program: %w", err)
	}
	auto, err := s.readAuto()
	if err != nil {
		return question, err
	}
	control, err := s.files.ReadFile(s.state(controlFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return question, fmt.Errorf("read %s: %w", controlFile, err)
	}
	all := fmt.Sprintf("%q %q %d %d %q %q %q %q", parameter, s.o.BinDir, program.Size(), program.ModTime().UnixNano(),
		s.render(set, userFile), user, auto, control)
	return sha256.Sum256([]byte(all)), nil
}

// askConf returns what PostgreSQL says a parameter would be with the settings and this text
// of the user's.
func (s *Server) askConf(ctx context.Context, set Settings, user, parameter string) (value string, err error) {
	question, err := s.confQuestion(set, user, parameter)
	if err != nil {
		return "", err
	}
	if value, known := s.answers.get(question); known {
		return value, nil
	}
	name := rand.Text()
	draft, copied := s.state("postgresql.conf.try-"+name), s.state("user.conf.try-"+name)
	defer s.files.Remove(draft) // only drafts
	defer s.files.Remove(copied)
	for path, text := range map[string]string{copied: user, draft: s.render(set, copied)} {
		if err := s.files.Replace(path, []byte(text)); err != nil {
			return "", noSpace(err)
		}
	}
	value, err = s.program(ctx, "postgres", []string{"-C", parameter, "-D", s.o.DataDir, "-c", "config_file=" + draft}, runOptions{})
	value = strings.TrimSpace(value)
	if err == nil {
		s.answers.keep(question, value)
	}
	return value, err
}
