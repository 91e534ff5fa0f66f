package ha_test

import (
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestUnhide: a primary that was restarted in place lets clients in when its
// voters have flushed what it recovered, and not while its setting lets it
// acknowledge commits that fewer of the recorded voters hold (S4, S9).
func TestUnhide(t *testing.T) {
	for name, c := range map[string]struct {
		sync   ha.SyncSetting
		unsure bool
		flush  ha.LSN
		opens  bool
	}{
		"the recorded voters":                       {sync: ha.SyncSetting{K: 1, Names: []string{"n2", "n3"}}, flush: 100, opens: true},
		"they lack what was recovered":              {sync: ha.SyncSetting{K: 1, Names: []string{"n2", "n3"}}, flush: 99},
		"one more, who is not on record (narrowed)": {sync: ha.SyncSetting{K: 1, Names: []string{"n2", "n3", "n4"}}, flush: 100},
		"nobody":                 {flush: 100},
		"a setting nobody knows": {sync: ha.SyncSetting{K: 1, Names: []string{"n2", "n3"}}, unsure: true, flush: 100},
	} {
		o := leading()
		o.Consul.Record.Durability = ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"n2", "n3"}}
		v := &o.Server
		v.Hidden, v.RecoveryEnd, v.Sync, v.SyncUnsure = true, 100, c.sync, c.unsure
		v.Walsenders = []ha.Walsender{{Member: "n2", Streaming: true, Sync: true, Flush: c.flush}, {Member: "n3", Streaming: true, Sync: true, Flush: c.flush}}
		_, actions := ha.Decide(ha.State{}, o)
		opens := false
		for _, a := range actions {
			opens = opens || a.Kind == ha.Unhide
		}
		if opens != c.opens {
			t.Errorf("%s: lets clients in: %t, want %t (%v)", name, opens, c.opens, actions)
		}
	}
}
