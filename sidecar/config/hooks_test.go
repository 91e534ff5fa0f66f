package config_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
)

// TestHooks reads blocks of hooks and notices, writes them, and reads that.
func TestHooks(t *testing.T) {
	c, err := config.Load("testdata/hooks.hcl", environment())
	if err != nil {
		t.Fatal(err)
	}
	if want := []hooks.Hook{
		{Name: "vip", On: []hooks.Kind{hooks.Primary, hooks.Replica, hooks.Stopped}, Command: []string{"/usr/local/bin/vip", "10.0.0.100"}, User: "root", Timeout: 3 * time.Second},
		{Name: "fencing", On: []hooks.Kind{hooks.BeforePromote}, Command: []string{"/usr/local/bin/fence-old-primary"}, User: c.Postgres.User, Timeout: 10 * time.Second, Abort: true},
	}; !reflect.DeepEqual(c.Hooks, want) {
		t.Errorf("got %+v", c.Hooks)
	}
	if want := []hooks.Notice{{Name: "pager", On: []hooks.Kind{hooks.Failover, hooks.Blocked, hooks.Unblocked},
		URL: "https://events.pagerduty.com/v2/enqueue", Format: hooks.FormatPagerDuty, KeyFile: "testdata/secrets/token", Timeout: 5 * time.Second}}; !reflect.DeepEqual(c.Notices, want) {
		t.Errorf("got %+v", c.Notices)
	}
	var text strings.Builder
	if err := c.Write(&text); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`hook "vip" {`, `on_failure = "abort"`, `notify "pager" {`, `"before_promote"`} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("written without %s:\n%s", line, text.String())
		}
	}
	changed := *c
	changed.Hooks, changed.Notices = nil, nil
	if blocks := c.NeedsRestart(&changed); len(blocks) > 0 {
		t.Errorf("a change needs a restart of %q", blocks)
	}
}
