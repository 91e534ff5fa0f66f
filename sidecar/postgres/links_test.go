package postgres

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// TestPlantedLinks: an SQL superuser writes files as the server's user, and so may put links
// to root's files where this process reads and writes: neither happens.
func TestPlantedLinks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const nobody = 65534
	base, err := os.MkdirTemp("", "pgsidecar-links-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(base)) })
	must(t, os.Chmod(base, 0o755))
	secret := filepath.Join(base, "secret")
	for name, do := range map[string]struct {
		link string
		of   func(s *Server) error
	}{
		"read pg_hba.conf": {"data/pg_hba.conf", func(s *Server) error {
			return errors.Join(said(s.renderHBA(t.Context(), Settings{}, false)), errWritten)
		}},
		"read postgresql.conf":     {"data/postgresql.conf", func(s *Server) error { c, err := s.readUserConf(); return said(c.text, err) }},
		"read auto.conf":           {"data/postgresql.auto.conf", func(s *Server) error { return s.cleanAuto(Instructions{}) }},
		"read the promise":         {"state/promise", func(s *Server) error { _, err := s.promised(); return err }},
		"write the promise":        {"state/promise", func(s *Server) error { return s.Promise(7, "", false) }},
		"read the marker":          {"state/unfinished", func(s *Server) error { _, err := s.marked(); return err }},
		"read the controls":        {"state/control.conf", func(s *Server) error { _, err := s.Control(); return err }},
		"lock programs":            {"state/programs.lock", func(s *Server) error { _, err := s.lockPrograms(t.Context()); return err }},
		"keep the reserve":         {"state/reserve", func(s *Server) error { return s.KeepReserve() }},
		"read a history":           {"data/pg_wal/00000002.history", func(s *Server) error { _, err := s.History(2); return err }},
		"admit":                    {"state/upstream", func(s *Server) error { return errors.Join(s.Admit("n2"), errWritten) }},
		"write the old temporary":  {"state/upstream.new", func(s *Server) error { return errors.Join(s.Admit("n2"), errWritten) }},
		"note a group":             {"state/programs.group", func(s *Server) error { s.noteGroup(7); return errWritten }},
		"restore a partial":        {"data/pg_wal/000000010000000000000001.partial", func(s *Server) error { return s.RestorePartial() }},
		"restore over a file":      {"data/pg_wal/xlogtemp.pgsidecar", func(s *Server) error { return errors.Join(s.RestorePartial(), errWritten) }},
		"empty the data directory": {"data/base", func(s *Server) error { return errors.Join(s.wipe(s.o.DataDir), errWritten) }},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, errors.Join(os.RemoveAll(filepath.Join(base, "data")), os.RemoveAll(filepath.Join(base, "state"))))
			must(t, os.WriteFile(secret, []byte("a secret"), 0o600))
			s := &Server{o: Options{DataDir: filepath.Join(base, "data"), StateDir: filepath.Join(base, "state"), SuperuserName: "p", ReplicationName: "r"},
				account: account{uid: nobody, gid: nobody, switchID: true, files: rights.Of(nobody, nobody)}, log: hclog.NewNullLogger()}
			s.sock = s.state("sock")
			must(t, errors.Join(s.makeDir(s.o.DataDir), s.makeDir(s.data("pg_wal")), s.makeDir(s.data("pg_wal", "archive_status")), s.MakeState()))
			must(t, s.files.Replace(s.data("pg_wal", "000000020000000000000001"), nil)) // of which a partial is kept
			if name == "restore over a file" {
				must(t, s.files.Replace(s.data("pg_wal", "000000010000000000000001.partial"), nil))
			}
			link := filepath.Join(base, do.link)
			must(t, os.Symlink(secret, link))
			if err := do.of(s); err == nil {
				t.Error("was done")
			} else if strings.Contains(err.Error(), "a secret") {
				t.Errorf("the secret is told: %v", err)
			}
			if content, err := os.ReadFile(secret); err != nil || string(content) != "a secret" {
				t.Errorf("root's file has %q, %v", content, err)
			}
			if info, err := os.Stat(secret); err != nil || info.Mode() != 0o600 {
				t.Errorf("root's file has mode %v, %v", info.Mode(), err)
			}
		})
	}
}

// errWritten stands for what may be done, but not to the link's target.
var errWritten = errors.New("written beside")

// said makes a text an error, if reading it was none.
func said(text string, err error) error {
	if err == nil && strings.Contains(text, "a secret") {
		return errors.New(text)
	}
	return err
}
