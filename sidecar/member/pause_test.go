package member

import (
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// TestMayResume: a refusal says what is paused, and by which command that ends.
func TestMayResume(t *testing.T) {
	now := time.Now()
	all := &settings.Pause{Until: now.Add(time.Minute)}
	two := &settings.Pause{Until: now.Add(time.Minute), Members: []string{"n1", "n2"}}
	for _, c := range []struct {
		paused *settings.Pause
		names  string
		want   string // of the refusal; empty: there is none
	}{
		{two, "n1", ""},
		{two, "n1 n2", ""},
		{two, "n1 n3", "n3 is not paused; paused: n1, n2"},
		{nil, "n1", "nothing is paused"},
		{&settings.Pause{Until: now.Add(-time.Minute)}, "n1", "nothing is paused"},
		{all, "n1", "the whole cluster is paused, and no member alone: pgsidecar resume, without a name"},
	} {
		err := mayResume(c.paused, strings.Fields(c.names), now)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v, resume %s: %v, want %q", c.paused, c.names, err, c.want)
		}
	}
}
