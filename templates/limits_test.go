package templates_test

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/templates"
)

// builtin renders a built-in template.
func builtin(t *testing.T, name string) string {
	t.Helper()
	text, err := templates.BuiltinText(name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := execute(t, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// number is what a file gives a setting, in its unit.
func number(t *testing.T, text, setting string, unit time.Duration) time.Duration {
	t.Helper()
	found := regexp.MustCompile(`(?m)^\s*`+regexp.QuoteMeta(setting)+`\s*=?\s*(\d+)(ms|s|d)?\s*$`).FindAllStringSubmatch(text, -1)
	if len(found) == 0 {
		t.Fatalf("no %s in\n%s", setting, text)
	}
	n, err := strconv.Atoi(found[0][1])
	if err != nil {
		t.Fatal(err)
	}
	if written := map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "d": 24 * time.Hour}[found[0][2]]; written != 0 {
		unit = written
	}
	return time.Duration(n) * unit
}

// TestSessionsAreNotCut: no session ends because it lasts long, or because HAProxy was
// reloaded a while ago: only the operator's own line says so.
func TestSessionsAreNotCut(t *testing.T) {
	for _, name := range []string{"haproxy.cfg", "haproxy-static.cfg"} {
		text := builtin(t, name)
		if strings.Contains(text, "hard-stop-after") {
			t.Errorf("%s ends the sessions of a reloaded worker", name)
		}
		for _, side := range []string{"timeout client", "timeout server"} {
			if d := number(t, text, side, time.Millisecond); d < 24*24*time.Hour {
				t.Errorf("%s: %s is %s, which ends a session that is silent for so long", name, side, d)
			}
		}
	}
	text, err := templates.BuiltinText("haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := templates.ParseTemplate("test", text, templates.Delimiters{})
	if err != nil {
		t.Fatal(err)
	}
	page := testPage(t)
	page.HAProxy.Global = []string{"hard-stop-after 24h"}
	out, err := tmpl.Render(t.Context(), page, templates.Env{})
	if err != nil || strings.Count(string(out), "\n    hard-stop-after 24h\n") != 1 {
		t.Errorf("the operator's own line is not there once: %v\n%s", err, out)
	}
	for _, setting := range []string{"server_lifetime", "query_timeout", "client_idle_timeout", "idle_transaction_timeout"} {
		if strings.Contains(builtin(t, "pgbouncer.ini"), setting) {
			t.Errorf("pgbouncer.ini sets %s, by which sessions end", setting)
		}
	}
}

// TestLostHostEnds: what waits for a host that answers nothing any more ends in a bounded
// time, in PgBouncer and in HAProxy, whether it was sent anything or not.
func TestLostHostEnds(t *testing.T) {
	const bound = 30 * time.Second
	pool := builtin(t, "pgbouncer.ini")
	if number(t, pool, "tcp_keepalive", 1) != 1 {
		t.Error("PgBouncer does not look whether a silent server is there")
	}
	silent := number(t, pool, "tcp_keepidle", time.Second) + number(t, pool, "tcp_keepintvl", time.Second)*number(t, pool, "tcp_keepcnt", 1)
	if unanswered := number(t, pool, "tcp_user_timeout", time.Millisecond); silent > bound || unanswered > bound || unanswered == 0 {
		t.Errorf("PgBouncer: silent for %s, not answered for %s", silent, unanswered)
	}
	for _, name := range []string{"haproxy.cfg", "haproxy-static.cfg"} {
		text := builtin(t, name)
		if !strings.Contains(text, "\n    option srvtcpka\n") || !strings.Contains(text, " tcp-ut 30s ") {
			t.Errorf("%s does not look whether servers are there", name)
		}
		if silent := number(t, text, "srvtcpka-idle", time.Second) + number(t, text, "srvtcpka-intvl", time.Second)*number(t, text, "srvtcpka-cnt", 1); silent > bound {
			t.Errorf("%s: silent for %s", name, silent)
		}
	}
}
