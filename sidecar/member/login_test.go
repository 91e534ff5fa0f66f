package member

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
)

// TestLoginIsRefused: a server that refuses its superuser and takes writes is left alone,
// with the reason in status, and the member ends when it is asked to.
func TestLoginIsRefused(t *testing.T) {
	a := newAlone(t)
	stop := a.run()
	a.sql("create role dba superuser login; create table rows (n int)")
	ident := filepath.Join(a.data, "pg_ident.conf")
	me := "postgres"
	a.asServer("sh", "-c", "echo 'dba "+me+" dba' >>"+ident)
	hba := filepath.Join(a.data, "pg_hba.conf")
	a.asServer("sh", "-c", "(echo 'local all dba peer map=dba'; cat "+hba+") >"+hba+".new && mv "+hba+".new "+hba)
	if _, err := a.client.Ask(t.Context(), http.MethodPost, a.api, "/reload", nil); err != nil { // takes up the user's files
		t.Fatal(err)
	}
	dba := func(query string) (string, error) {
		cmd := a.command(filepath.Join(a.bin, "psql"), "-h", filepath.Join(a.data+".pgsidecar", "sock"), "-p", strconv.Itoa(a.port),
			"-U", "dba", "-d", "postgres", "-XAtqc", query)
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	a.until("the dba's way in", func() bool { _, err := dba("select 1"); return err == nil })
	blocked := func(why string) func() bool {
		return func() bool {
			st, err := a.client.StatusOf(t.Context(), a.api)
			for _, b := range blocksOf(st) {
				if err == nil && strings.Contains(b, why) {
					return true
				}
			}
			return false
		}
	}
	if _, err := dba("alter role postgres nologin"); err != nil {
		t.Fatal(err)
	}
	before, _ := dba("select pg_postmaster_start_time()")
	if out, err := dba("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'postgres'"); err != nil {
		t.Fatal(err, out)
	}
	a.until("the reason in status", blocked("not permitted to log in"))
	if out, err := dba("insert into rows values (1)"); err != nil {
		t.Errorf("the server takes no writes: %v: %s", err, out)
	}
	if after, _ := dba("select pg_postmaster_start_time()"); after != before {
		t.Errorf("the server was restarted: started at %s, then at %s", before, after)
	}
	asked := time.Now()
	stop()
	if took := time.Since(asked); took > 50*time.Second {
		t.Errorf("it took %s to end", took)
	}
}

// blocksOf are what status says is not done, and what is missing.
func blocksOf(st *api.Status) []string {
	var said []string
	if st != nil {
		for _, b := range st.Blocks {
			said = append(said, b.What+": "+b.Missing)
		}
	}
	return said
}

// TestCopyOfSettings: a member that is started again while Consul is away keeps the
// cluster's settings, and says how old they are.
func TestCopyOfSettings(t *testing.T) {
	a := newAlone(t)
	stop := a.run()
	if _, err := a.client.Ask(t.Context(), http.MethodPatch, a.api, "/config", []byte(`{"parameters":{"work_mem":"33MB"}}`)); err != nil {
		t.Fatal(err)
	}
	a.until("the setting", func() bool { return a.sql("show work_mem") == "33MB" })
	kept := filepath.Join(a.data+".pgsidecar", "settings.json")
	a.until("the copy", func() bool {
		text, err := os.ReadFile(kept)
		return err == nil && strings.Contains(string(text), "33MB")
	})
	stop()
	conf := filepath.Join(a.data+".pgsidecar", "postgresql.conf")
	text, err := os.ReadFile(a.path)
	if err != nil {
		t.Fatal(err)
	}
	// Where nobody answers, as while Consul is away.
	away := regexp.MustCompile(`consul \{.*\}`).ReplaceAllString(string(text), fmt.Sprintf(`consul { address = ["127.0.0.1:%d"] }`, labtest.FreePort(t)))
	if err := os.WriteFile(a.path, []byte(away), 0o600); err != nil {
		t.Fatal(err)
	}
	defer a.begin()()
	a.until("the age of the settings", func() bool {
		st, err := a.client.StatusOf(t.Context(), a.api)
		return err == nil && !st.Consul.SettingsCopied.IsZero()
	})
	if text, err := os.ReadFile(conf); err != nil || !strings.Contains(string(text), "33MB") {
		t.Errorf("the configuration has lost the cluster's setting: %v", err)
	}
}
