package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
)

// shows asks the rig's server for a parameter.
func (r *rig) shows(parameter string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d user=postgres password='secret of superuser' dbname=postgres", r.pg))
	if err != nil {
		return err.Error()
	}
	defer conn.Close(ctx)
	var value string
	if err := conn.QueryRow(ctx, "show "+parameter).Scan(&value); err != nil {
		return err.Error()
	}
	return value
}

// TestSettingsAtStart: a member starts its server with the cluster's settings, also
// those that take effect by a start alone. Settings with which it does not start are
// named by restart and status, and once they are taken back it starts.
func TestSettingsAtStart(t *testing.T) {
	r := newRig(t)
	if err := r.replace("api {", fmt.Sprintf("api {\n  token_file = %q", r.dir+"/superuser")); err != nil {
		t.Fatal(err)
	}
	r.startConsul()
	r.start()
	r.logged(long, "announced", "tag=primary")
	type result struct {
		code           int
		stdout, stderr string
	}
	pgsidecar := func(line string) (got result) {
		got.code, got.stdout, got.stderr = command(t, append(strings.Fields(line), "-config", r.config())...)
		return got
	}
	set := func(word string) {
		t.Helper()
		if got := pgsidecar("config set -yes " + word); got.code != cli.ExitOK {
			t.Fatalf("set %s: %+v", word, got)
		}
	}
	status := func(what string, words ...string) {
		t.Helper()
		late := time.After(long)
		for again := time.NewTicker(100 * time.Millisecond); ; {
			got := pgsidecar("status")
			all := true
			for _, w := range words {
				all = all && strings.Contains(got.stdout, w)
			}
			if all {
				again.Stop()
				return
			}
			select {
			case <-again.C:
			case <-late:
				t.Fatalf("%s: the status is %+v", what, got)
			}
		}
	}

	set("parameters.max_connections=60")
	r.stop()
	r.start()
	r.logged(long, "announced", "tag=primary")
	if got := r.shows("max_connections"); got != "60" {
		t.Errorf("it has started with %s connections", got)
	}

	if err := r.replace("cluster = ", "clutser = "); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := command(t, "reload", "n1", "-api", fmt.Sprint("127.0.0.1:", r.api), "-token-file", r.dir+"/superuser")
	if code != cli.ExitFailed || !strings.Contains(stderr, `the old one holds`) || !strings.Contains(stderr, `unknown key "clutser"`) {
		t.Errorf("reload of a wrong configuration: exit status %d, %s%s", code, stdout, stderr)
	}
	if err := r.replace("clutser = ", "cluster = "); err != nil {
		t.Fatal(err)
	}

	if got := pgsidecar("config set -yes parameters.shared_preload_libraries=nonesuch"); got.code != cli.ExitFailed || !strings.Contains(got.stderr, `there is no library "nonesuch"`) {
		t.Errorf("a library that is not there: %+v", got)
	}
	r.key("config", `{"parameters":{"shared_preload_libraries":"nonesuch"}}`) // as another program may have stored it
	status("with settings from elsewhere", "restart")
	got := pgsidecar("restart n1")
	if got.code != cli.ExitFailed || !strings.Contains(got.stderr, "does not start") || !strings.Contains(got.stderr, `access file "nonesuch"`) {
		t.Errorf("restart: %+v", got)
	}
	status("a server that does not start", "n1", "start failed: FATAL:", `access file "nonesuch"`)
	set("parameters.shared_preload_libraries=")
	status("with the settings taken back", "writable")
	if got := pgsidecar("status"); strings.Contains(got.stdout, "failed") {
		t.Errorf("the status still has it: %s", got.stdout)
	}
}
