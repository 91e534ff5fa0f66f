package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func TestRender(t *testing.T) {
	l := newProxyLab(t)
	l.configure("true")
	path := filepath.Join(l.dir, "proxy.hcl")
	render := func(args ...string) (string, string, int) {
		var out, errs bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: os.Getenv}
		cmd := newRenderCommand(a)
		cmd.SetArgs(append([]string{"--config", path}, args...))
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetErr(&errs)
		err := cmd.ExecuteContext(t.Context())
		code := 0
		var status exitStatus
		if errors.As(err, &status) {
			code = int(status)
		} else if err != nil {
			code = 1
			fmt.Fprint(&errs, err)
		}
		return out.String(), errs.String(), code
	}
	if _, e, code := render(); code != 1 || !strings.Contains(e, "no cluster") {
		t.Errorf("without a cluster: %d, %s", code, e)
	}
	l.register("n1", "primary", 1)
	l.record(1, "n1", ha.PhaseLeading)
	out, e, code := render("pgbouncer")
	if code != exitDiffers || !strings.Contains(out, "+* = host=127.0.0.1 port=") || strings.Contains(out, "haproxy") {
		t.Errorf("status %d\n%s%s", code, out, e)
	}
	whole, e, code := render("pgbouncer", "--whole")
	if code != 0 || !strings.Contains(whole, "\n* = host=127.0.0.1 port=") {
		t.Errorf("status %d\n%s%s", code, whole, e)
	}
	_, text, _ := strings.Cut(whole, "\n")
	l.must(os.WriteFile(filepath.Join(l.dir, "pgbouncer.ini"), []byte(text), 0o600))
	if out, e, code := render("pgbouncer"); code != 0 || out != "" {
		t.Errorf("nothing would change: %d\n%s%s", code, out, e)
	}
	if _, e, code := render("nosuch"); code != 1 || !strings.Contains(e, "expected one of haproxy") {
		t.Errorf("unknown template: %d %s", code, e)
	}
	if _, err := os.Stat(filepath.Join(l.dir, "haproxy.cfg")); err == nil {
		t.Error("render wrote a file")
	}
}
