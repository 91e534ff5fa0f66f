package proxy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func TestRender(t *testing.T) {
	l := newProxyLab(t)
	cfg := l.configure("true")
	render := func(whole bool, names ...string) (string, bool, error) {
		all, err := RenderOptions{Whole: whole, Timeout: 10 * time.Second}.Render(t.Context(), cfg, names)
		if len(all) != 1 {
			return "", false, err
		}
		return all[0].Content + all[0].Diff, all[0].Differs, err
	}
	if _, _, err := render(false); err == nil || !strings.Contains(err.Error(), "no cluster") {
		t.Errorf("without a cluster: %v", err)
	}
	l.register("n1", "primary", 1)
	l.record(1, "n1", ha.PhaseLeading)
	out, differs, err := render(false, "pgbouncer")
	if !differs || err != nil || !strings.Contains(out, "+* = host=127.0.0.1 port=") || strings.Contains(out, "haproxy") {
		t.Errorf("differs %t, %v\n%s", differs, err, out)
	}
	whole, differs, err := render(true, "pgbouncer")
	if !differs || err != nil || !strings.Contains(whole, "\n* = host=127.0.0.1 port=") {
		t.Errorf("differs %t, %v\n%s", differs, err, whole)
	}
	l.must(os.WriteFile(filepath.Join(l.dir, "pgbouncer.ini"), []byte(whole), 0o600))
	if out, differs, err := render(false, "pgbouncer"); differs || err != nil || out != "" {
		t.Errorf("nothing would change: %t, %v\n%s", differs, err, out)
	}
	if out, differs, err := render(true, "pgbouncer"); differs || err != nil || out != whole {
		t.Errorf("nothing would change: %t, %v\n%s", differs, err, out)
	}
	if _, _, err := render(false, "nosuch"); !errors.Is(err, config.ErrConfig) || !strings.Contains(err.Error(), "expected one of haproxy") {
		t.Errorf("unknown template: %v", err)
	}
	if _, err := os.Stat(filepath.Join(l.dir, "haproxy.cfg")); err == nil {
		t.Error("render wrote a file")
	}
}
