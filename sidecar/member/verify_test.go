package member

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
)

// TestVerifyDue: a proof is begun when it is due, again when its member was lost, and not
// for ever.
func TestVerifyDue(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 0, 0, 0, time.UTC) // a Wednesday
	good := &backup.Backup{Label: "b"}
	ran := func(ago time.Duration) *api.Verification { return &api.Verification{Began: now.Add(-ago)} }
	asked := func(ago time.Duration, tries int) *askedProof {
		return &askedProof{By: "n2", At: now.Add(-ago), Tries: tries}
	}
	for _, c := range []struct {
		name  string
		spec  string
		state keptBackups
		led   time.Duration // for how long this member has led
		due   bool
	}{
		{"no backup", "* * * * *", keptBackups{}, time.Hour, false},
		{"no schedule", "", keptBackups{Good: good}, 48 * time.Hour, false},
		{"the first", "0 4 * * *", keptBackups{Good: good}, 2 * time.Hour, true},
		{"due before it led", "0 4 * * *", keptBackups{Good: good}, time.Minute, false},
		{"due before it led, and missed", "0 4 * * *", keptBackups{Good: good, Verify: keptProofs{Last: ran(30 * time.Hour)}}, time.Minute, true},
		{"done", "0 4 * * *", keptBackups{Good: good, Verify: keptProofs{Last: ran(59 * time.Minute)}}, 48 * time.Hour, false},
		{"under way, or lost just now", "0 4 * * *", keptBackups{Good: good, Verify: keptProofs{Asked: asked(30*time.Second, 1)}}, time.Hour, false},
		{"lost", "", keptBackups{Good: good, Verify: keptProofs{Asked: asked(2*time.Minute, 1)}}, time.Hour, true},
		{"lost again and again", "0 4 * * *", keptBackups{Good: good, Verify: keptProofs{Asked: asked(2*time.Minute, verifyTries)}}, 48 * time.Hour, false},
		{"lost again and again, the day before", "0 4 * * *", keptBackups{Good: good, Verify: keptProofs{Asked: asked(25*time.Hour, verifyTries)}}, time.Minute, true},
	} {
		if due := verifyDue(c.spec, c.state, now.Add(-c.led), now); due != c.due {
			t.Errorf("%s: due is %v", c.name, due)
		}
	}
	var k keptProofs
	run := &api.BackupRun{Member: "n2", Began: now}
	k.ask(run)
	k.ask(run)
	if k.Asked.Tries != 2 || askedOf(k).By != "" {
		t.Errorf("asked: %+v; the last try is another member's: %+v", k.Asked, askedOf(k))
	}
	k.note(api.Verification{Label: "b"})
	k.note(api.Verification{Label: "c", Error: "damaged"})
	if k.Asked != nil || k.Good.Label != "b" || k.Last.Label != "c" {
		t.Errorf("noted: %+v", k)
	}
}
