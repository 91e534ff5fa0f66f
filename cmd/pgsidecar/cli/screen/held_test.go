package screen

import (
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// TestHeldSlots: status says for whom log is kept, what is used up, and what to type.
func TestHeldSlots(t *testing.T) {
	for name, c := range map[string]struct {
		slot api.HeldSlot
		says []string // none: nothing is said
	}{
		"a member that is away": {api.HeldSlot{Name: "pgsidecar_n3", Bytes: 5 << 30}, []string{"of member n3", "is not read from", "5", "pgsidecar remove n3"}},
		"a member that is slow": {api.HeldSlot{Name: "pgsidecar_n3", Active: true, Bytes: 5 << 30}, []string{"is read from"}},
		"another's, forgotten":  {api.HeldSlot{Name: "old_backup", Bytes: 2 << 30}, []string{"slot old_backup", "pg_drop_replication_slot('old_backup')"}},
		"another's, used up":    {api.HeldSlot{Name: "cdc", Lost: true}, []string{"cdc is used up", "begin anew", "pg_drop_replication_slot('cdc')"}},
		"a little":              {api.HeldSlot{Name: "pgsidecar_n3", Bytes: 100 << 20}, nil},
		"a member's, made anew": {api.HeldSlot{Name: "pgsidecar_n3", Lost: true}, nil},
		"nothing":               {api.HeldSlot{Name: "cdc"}, nil},
	} {
		var b strings.Builder
		writeHeld(&b, &api.Status{Member: "n1", Held: []api.HeldSlot{c.slot}})
		if (b.Len() > 0) != (len(c.says) > 0) {
			t.Errorf("%s: %q", name, b.String())
		}
		for _, words := range c.says {
			if !strings.Contains(b.String(), words) {
				t.Errorf("%s: no %q in %q", name, words, b.String())
			}
		}
	}
}
