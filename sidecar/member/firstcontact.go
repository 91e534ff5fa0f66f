package member

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
	"github.com/pgsidecar/pgsidecar/sidecar/postmaster"
)

// TakeOver lets Run shut down a server that somebody else has started on the data
// directory, and go on with its data.
func (m *Member) TakeOver() { m.takeOver = true }

// begin does what comes before anything is started.
func (m *Member) begin() error {
	if err := m.firstContact(); err != nil {
		return err
	}
	if m.apart = postgres.Apart(m.config.Postgres.StateDir, m.config.Postgres.DataDir); m.apart != "" {
		m.log.Warn(m.apart)
	}
	return m.task.begin(m.config.Member)
}

// foundWithoutConfiguration refuses data that this member has never served and whose
// configuration is not with it, as Debian's is not: with PostgreSQL's defaults its
// clients would be refused, and its libraries missing.
func foundWithoutConfiguration(stateDir, dataDir string) error {
	ran, err := postgres.HasRun(stateDir)
	ours := isFile(filepath.Join(stateDir, "postgresql.conf")) || isFile(filepath.Join(stateDir, "copy"))
	if err != nil || ran || ours || !isFile(filepath.Join(dataDir, "PG_VERSION")) || isFile(filepath.Join(dataDir, "postgresql.conf")) ||
		isFile(filepath.Join(stateDir, "unfinished")) {
		return err
	}
	where := "where its server had it"
	found, _ := filepath.Glob("/etc/postgresql/*/*/postgresql.conf") // the pattern is right
	for _, file := range found {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "'"+filepath.Clean(dataDir)+"'") {
			where = filepath.Dir(file)
		}
	}
	return config.Fault("%[1]s has a server's data and no postgresql.conf, so that server's own settings would be lost. "+
		"Copy postgresql.conf, conf.d, pg_hba.conf and pg_ident.conf from %[2]s into %[1]s; or, to begin with PostgreSQL's defaults, make an empty %[1]s/postgresql.conf", dataDir, where)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// firstContact refuses to run beside a server that somebody else started on a data
// directory which this member has never served: it may be anybody's database. Asked to
// take it over, the decisions deal with it, as with what replaced a server of this member's
// own: they know the cluster, and leave that server running until its data can be used.
func (m *Member) firstContact() error {
	pg := m.config.Postgres
	pid, err := guard.Stranger(pg.StateDir, pg.DataDir)
	if err != nil {
		return fmt.Errorf("look for a server that runs on the data directory: %w", err)
	}
	if pid == 0 {
		return nil
	}
	ran, err := postgres.HasRun(pg.StateDir)
	if err != nil {
		return err
	}
	if ran && !m.takeOver {
		return nil
	}
	if !m.takeOver {
		by := ""
		if parent, name := postmaster.Parent(pid); parent > 1 {
			by = fmt.Sprintf(", whose parent is %s (process %d)", name, parent)
		}
		return fmt.Errorf("a PostgreSQL server that pgsidecar did not start runs on %[1]s: process %[2]d%[3]s. "+
			"Stop it with what started it (on Debian: pg_ctlcluster) or with pg_ctl -D %[1]s stop, and see that nothing starts it again "+
			"(systemctl disable --now postgresql). Or run with --take-over: pgsidecar then shuts it down and uses its data", pg.DataDir, pid, by)
	}
	m.log.Warn("taking over: a server that pgsidecar did not start is shut down as soon as this member can go on with its data", "pid", pid, "data_dir", pg.DataDir)
	if err := guard.Watch(pg.StateDir, pg.DataDir); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	return nil
}
