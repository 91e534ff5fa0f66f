package settings_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// async is the policy of a member whose file says mode = "async" and nothing else.
func async() ha.Policy {
	p := settings.Default()
	p.Mode = ha.ModeAsync
	return p
}

// TestModesMerge: whichever source says the mode, the policy is one that can be.
// Defaults and bounds count after the sources are merged.
func TestModesMerge(t *testing.T) {
	strictOff := settings.Default()
	strictOff.Strict = false
	for _, c := range []struct {
		name      string
		own       ha.Policy
		stored    string
		mode      ha.Mode
		standbys  int
		strict    bool
		maxVoters int
	}{
		{"quorum, nothing stored", settings.Default(), ``, ha.ModeQuorum, 1, true, 0},
		{"async, nothing stored", async(), ``, ha.ModeAsync, 0, false, 0},
		{"founded async, quorum stored", async(), `{"durability":{"mode":"quorum"}}`, ha.ModeQuorum, 1, true, 0},
		{"founded async, quorum of two stored", async(), `{"durability":{"mode":"quorum","standbys":2}}`, ha.ModeQuorum, 2, true, 0},
		{"founded async, standbys stored", async(), `{"durability":{"standbys":2}}`, ha.ModeAsync, 0, false, 0},
		{"founded quorum, async stored", settings.Default(), `{"durability":{"mode":"async"}}`, ha.ModeAsync, 0, false, 0},
		{"founded quorum, not strict, async and back", strictOff, `{"durability":{"mode":"quorum"}}`, ha.ModeQuorum, 1, false, 0},
		{"fewer voters in the file than standbys stored", ha.Policy{Mode: ha.ModeQuorum, Standbys: 1, MaxVoters: 1},
			`{"durability":{"standbys":2}}`, ha.ModeQuorum, 2, false, 2},
		{"a policy of no standbys", ha.Policy{Mode: ha.ModeQuorum}, ``, ha.ModeQuorum, 1, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := new(settings.Reader).Read([]byte(c.stored), 1)
			p := set.Apply(c.own, "n1", time.Now())
			if set.Err != nil || p.Mode != c.mode || p.Standbys != c.standbys || p.Strict != c.strict || p.MaxVoters != c.maxVoters {
				t.Errorf("got %s, standbys %d, strict %t, max_voters %d, %v", p.Mode, p.Standbys, p.Strict, p.MaxVoters, set.Err)
			}
		})
	}
}

// TestFailoverSettings: what is stored goes before the member's own, and what is not
// stored, or wrong, changes nothing.
func TestFailoverSettings(t *testing.T) {
	own := settings.Default()
	own.MaxLag, own.DistrustRefusal = 1<<20, true
	for _, c := range []struct {
		stored   string
		maxLag   int64
		distrust bool
		wrong    bool
	}{
		{``, 1 << 20, true, false},
		{`{"failover":{"automatic":true}}`, 1 << 20, true, false},
		{`{"failover":{"max_lag":"16MB"}}`, 16 << 20, true, false},
		{`{"failover":{"max_lag":"0"}}`, 0, true, false},
		{`{"failover":{"refused_is_dead":true}}`, 1 << 20, false, false},
		{`{"failover":{"refused_is_dead":false}}`, 1 << 20, true, false},
		{`{"failover":{"max_lag":"16 megabytes"}}`, 1 << 20, true, true},
		{`{"failover":{"max_lag":16}}`, 1 << 20, true, true},
	} {
		set := new(settings.Reader).Read([]byte(c.stored), 1)
		if p := set.Apply(own, "n1", time.Now()); p.MaxLag != c.maxLag || p.DistrustRefusal != c.distrust || (set.Err != nil) != c.wrong {
			t.Errorf("%s: max_lag %d, distrust %v, %v", c.stored, p.MaxLag, p.DistrustRefusal, set.Err)
		}
	}
}

// FuzzApply: whatever is stored by whatever hand, no policy of mode quorum waits for
// nobody, and none of mode async for somebody.
func FuzzApply(f *testing.F) {
	for _, seed := range []string{``, `{`, `{"durability":{"mode":"quorum"}}`, `{"durability":{"mode":"quorum","standbys":0}}`,
		`{"durability":{"mode":"nonsense","standbys":-1,"max_voters":-2}}`, `{"durability":{"max_voters":1,"standbys":5}}`, `{"durability":3}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, stored string) {
		set := new(settings.Reader).Read([]byte(stored), 1)
		for _, own := range []ha.Policy{settings.Default(), async(), {Mode: ha.ModeQuorum}} {
			p := set.Apply(own, "n1", time.Now())
			switch {
			case p.Mode == ha.ModeQuorum && p.Standbys >= 1 && (p.MaxVoters == 0 || p.MaxVoters >= p.Standbys):
			case p.Mode == ha.ModeAsync && p.Standbys == 0 && !p.Strict && p.MaxVoters == 0:
			default:
				t.Errorf("%q makes %+v", stored, p)
			}
		}
	})
}
