package drill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// edit is a file that was changed, and what it was before.
type edit struct {
	member, path string
	before       []byte
}

// edited writes the changed text into the file that is there, as an editor does that keeps
// owner and mode.
func edited(member, path string, change func(string) string) (*edit, error) {
	before, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("edit %s: %w", path, err)
	}
	if err := os.WriteFile(path, []byte(change(string(before))), 0o600); err != nil {
		return nil, fmt.Errorf("edit %s: %w", path, err)
	}
	return &edit{member: member, path: path, before: before}, nil
}

// back puts the file back; without an edit there is nothing to do.
func (e *edit) back() error {
	if e == nil {
		return nil
	}
	err := os.WriteFile(e.path, e.before, 0o600)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // another act may have taken the directory away
		return fmt.Errorf("put back %s: %w", e.path, err)
	}
	return nil
}

// mistake is a line that somebody writes into a file of the data directory.
type mistake struct{ file, line string }

// mistakes are refused by PostgreSQL, at once or at the next start, and are to be named.
var mistakes = []mistake{
	{"postgresql.conf", "work_mem = '64MB"}, {"postgresql.conf", "include 'lost.conf'"}, {"postgresql.conf", "no such line"},
	{"postgresql.conf", "max_conections = 10"}, {"postgresql.conf", "work_mem = 12XB"},
	{"pg_ident.conf", "one two"},
}

// changes are taken by PostgreSQL, and are not to hurt.
var changes = []mistake{
	{"postgresql.conf", "port = 5999"}, {"postgresql.conf", "unix_socket_directories = '/tmp'"}, {"postgresql.conf", "synchronous_standby_names = ''"},
	{"postgresql.conf", "primary_conninfo = 'host=127.0.0.9'"}, {"postgresql.conf", "max_connections = 7"}, {"postgresql.conf", "hot_standby = off"},
	{"postgresql.conf", "shared_preload_libraries = 'nosuch'"}, {"postgresql.conf", "listen_addresses = '127.0.0.7'"},
	{"pg_hba.conf", "local all all reject"}, {"pg_hba.conf", "host replication all all reject"},
	{"pg_hba.conf", "host all all nonsense"}, // which is not read: the lab's pg.hcl has the lines
}

// wrongFile writes a line into a file of a member's data directory; another act follows at
// once while it is there.
func (o *operator) wrongFile() Scenario {
	var at *edit
	var wrong mistake
	var named bool
	return Scenario{
		Name: "file-edited", Why: "a line is written into a server's file, its members are reloaded or restarted, and it is taken out", Away: true, Expect: Either,
		Fault: func(ctx context.Context, c Cast) (err error) {
			at = nil
			member, list := o.member(c), mistakes
			if named = o.draw.IntN(3) > 0; !named {
				list = changes
			}
			wrong = one(o.draw, list)
			h, err := c.Lab.Plan().Host(member)
			if err != nil {
				return err
			}
			if at, err = edited(member, filepath.Join(h.DataDir(), wrong.file), func(text string) string { return text + "\n" + wrong.line + "\n" }); err != nil {
				return err
			}
			// What is refused says why; that is no fault of the act.
			args := one(o.draw, [][]string{{"status"}, {"reload", member}, {"restart", member}, {"switchover"}})
			_, err = c.Lab.Pgsidecar(ctx, c.Primary, "yes", args...)
			return accepted(err)
		},
		Check: func(ctx context.Context, c Cast) error {
			if !named || at == nil { // another act had taken the file away
				return nil
			}
			return shown(ctx, c, wrong.file, at.member)
		},
		Undo: func(ctx context.Context, c Cast) error {
			if at == nil {
				return nil
			}
			if err := at.back(); err != nil {
				return err
			}
			// As status says; a server that does not run reads it when it starts.
			_, err := anywhere(ctx, c, "reload", at.member)
			return accepted(err)
		},
	}
}

// accepted makes nothing of a refusal.
func accepted(err error) error {
	if refusal := (*lab.Refusal)(nil); errors.As(err, &refusal) {
		return nil
	}
	return err
}

// wrongConfig breaks a member's pg.hcl: a reload refuses it, and so does a start.
func (o *operator) wrongConfig() Scenario {
	var at *edit
	return Scenario{
		Name: "config-wrong", Why: "a member's pg.hcl is broken: config validate names it, a reload keeps what was, and after a repair it starts", Away: true, Expect: Either,
		Fault: func(ctx context.Context, c Cast) (err error) {
			at = nil
			member := o.member(c)
			h, err := c.Lab.Plan().Host(member)
			if err != nil {
				return err
			}
			line := one(o.draw, []string{"colour = \"red\"", "postgres {", "failover { lease = \"soon\" }", "cluster = \"other\""})
			if at, err = edited(member, h.ConfigFile(), func(text string) string { return text + "\n" + line + "\n" }); err != nil {
				return err
			}
			if err := types(ctx, c, member, "config", "validate"); err == nil {
				return fmt.Errorf("config validate takes %q", line)
			}
			if o.draw.IntN(2) == 0 {
				return c.Lab.Signal(member, lab.Sidecar, syscall.SIGHUP)
			}
			if err := stopSidecar(ctx, c, member); err != nil {
				return err
			}
			if err := c.Lab.Start(ctx, member, lab.Sidecar); err != nil {
				return err
			}
			return gone(ctx, c, member, lab.Sidecar) // it refuses to start
		},
		Undo: func(ctx context.Context, c Cast) error {
			if at == nil {
				return nil
			}
			return errors.Join(at.back(), startAbsent(ctx, c, at.member, lab.Sidecar))
		},
	}
}

// moves gives a replica's server another port, and its own again.
func (o *operator) moves() Scenario {
	var at *edit
	var address string
	return Scenario{
		Name: "readdressed", Why: "a replica's server gets another port, and its own again", Away: true, Expect: Stays,
		Fault: func(ctx context.Context, c Cast) (err error) {
			at = nil
			h, err := c.Lab.Plan().Host(c.Replicas[0])
			if err != nil {
				return err
			}
			port, err := programs.FreePort()
			if err != nil {
				return err
			}
			address = h.Address + ":" + strconv.Itoa(port)
			if at, err = edited(h.Name, h.ConfigFile(), func(text string) string {
				return strings.ReplaceAll(text, strconv.Quote(h.PostgresAddress()), strconv.Quote(address))
			}); err != nil {
				return err
			}
			if err := stopSidecar(ctx, c, h.Name); err != nil {
				return err
			}
			return c.Lab.Start(ctx, h.Name, lab.Sidecar)
		},
		Check: func(ctx context.Context, c Cast) error { return shown(ctx, c, address) },
		Undo: func(ctx context.Context, c Cast) error {
			if at == nil {
				return nil
			}
			if err := at.back(); err != nil {
				return err
			}
			if err := stopSidecar(ctx, c, at.member); ignoreAbsent(err) != nil {
				return err
			}
			return startAbsent(ctx, c, at.member, lab.Sidecar)
		},
	}
}

// renamed gives a replica another name, and its own again; the name that is left is removed.
func (o *operator) renamed() Scenario {
	var at *edit
	return Scenario{
		Name: "renamed", Why: "a replica gets another name in its pg.hcl, and its own again; the names that are left are removed", Away: true, Expect: Stays,
		Fault: func(ctx context.Context, c Cast) (err error) {
			at = nil
			h, err := c.Lab.Plan().Host(c.Replicas[0])
			if err != nil {
				return err
			}
			if err := stopSidecar(ctx, c, h.Name); err != nil {
				return err
			}
			if at, err = edited(h.Name, h.ConfigFile(), func(text string) string {
				return strings.Replace(text, "member  = "+strconv.Quote(h.Name), "member  = "+strconv.Quote(h.Name+"b"), 1)
			}); err != nil {
				return err
			}
			return c.Lab.Start(ctx, h.Name, lab.Sidecar)
		},
		Check: func(ctx context.Context, c Cast) error {
			// In a pause in which somebody has stopped the primary there is nothing to stream.
			return shownOne(ctx, c, []string{c.Replicas[0] + "b replica streaming"}, []string{c.Replicas[0] + "b replica", "PAUSED"})
		},
		Undo: func(ctx context.Context, c Cast) error {
			if at == nil {
				return nil
			}
			if err := stopSidecar(ctx, c, at.member); ignoreAbsent(err) != nil {
				return err
			}
			if err := at.back(); err != nil {
				return err
			}
			if err := startAbsent(ctx, c, at.member, lab.Sidecar); err != nil {
				return err
			}
			return removed(ctx, c, at.member+"b")
		},
	}
}
