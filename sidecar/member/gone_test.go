package member

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestGone: only the leader takes a member for gone, and only one whose link is down, and was
// for half a minute, since the leader began to lead at the latest.
func TestGone(t *testing.T) {
	const now = ha.Instant(3600 * 1e9)
	ago := func(d time.Duration) ha.Instant { return now.Add(-d) }
	for name, c := range map[string]struct {
		role     ha.Role
		member   string
		link     ha.Link
		received ha.Instant
		leads    ha.Instant
		want     bool
	}{
		"refused for a minute":    {ha.RolePrimary, "n3", ha.LinkRefused, ago(time.Minute), ago(time.Hour), true},
		"silent for a minute":     {ha.RolePrimary, "n3", ha.LinkSilent, ago(time.Minute), ago(time.Hour), true},
		"for a second":            {ha.RolePrimary, "n3", ha.LinkRefused, ago(time.Second), ago(time.Hour), false},
		"heard":                   {ha.RolePrimary, "n3", ha.LinkUp, ago(time.Minute), ago(time.Hour), false},
		"it has just begun":       {ha.RolePrimary, "n3", ha.LinkSilent, ago(time.Minute), ago(time.Second), false},
		"never heard":             {ha.RolePrimary, "n3", ha.LinkSilent, 0, ago(time.Hour), true},
		"never heard, just begun": {ha.RolePrimary, "n3", ha.LinkSilent, 0, ago(time.Second), false},
		"by a replica":            {ha.RoleReplica, "n3", ha.LinkRefused, ago(time.Minute), ago(time.Hour), false},
		"unknown":                 {ha.RolePrimary, "n9", ha.LinkRefused, ago(time.Minute), ago(time.Hour), false},
	} {
		s := &sidecar.Snapshot{State: ha.State{Role: c.role, PhaseAt: c.leads}, Observation: ha.Observation{Now: now,
			Peers: []ha.Peer{{Member: "n2", Link: ha.LinkUp, ReceivedAt: now}, {Member: "n3", Link: c.link, ReceivedAt: c.received}}}}
		if got := unheardFor(s, c.member, goneAfter); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
