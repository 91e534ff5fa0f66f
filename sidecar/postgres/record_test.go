package postgres

import (
	"os"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestNoteSeen: what is known of the newest record is there at the next start, as it was last
// written; one that is damaged says nothing.
func TestNoteSeen(t *testing.T) {
	m := newMember(t, "n1")
	if f := m.inspect(); f.Seen != (ha.RecordKept{}) {
		t.Fatalf("before any: %+v", f.Seen)
	}
	if err := m.NoteSeen(ha.RecordSeen{Term: 3}); err == nil {
		t.Error("a state directory that is not there was made: its file system may not be mounted")
	}
	must(t, m.Promise(3, "n2", false))
	for _, seen := range []ha.RecordSeen{
		{Term: 3, Leader: "n2", Phase: ha.PhaseElecting, System: "7"},
		{Term: 3, Leader: "n2", Phase: ha.PhaseLeading, System: "7", Changes: 9, Base: 2, Timeline: 4},
	} {
		must(t, m.NoteSeen(seen))
		if f := m.inspect(); f.Seen.RecordSeen != seen {
			t.Errorf("%+v was kept, and %+v is read", seen, f.Seen)
		}
	}
	for _, c := range []struct {
		file  string
		seen  ha.RecordSeen
		since uint64
	}{
		{`{"term":3,"system":"7"}`, ha.RecordSeen{Term: 5, System: "7"}, 3}, // an earlier version wrote it
		{`{"term":3,"system":"7","since":2}`, ha.RecordSeen{Term: 5, System: "7"}, 2},
		{`{"term":3,"system":"7","since":2}`, ha.RecordSeen{Term: 1, System: "8"}, 1},
		{`{"term":`, ha.RecordSeen{Term: 5, System: "7"}, 5},
		{`{}`, ha.RecordSeen{Term: 5, System: "7"}, 5},
	} {
		must(t, os.WriteFile(m.state("record"), []byte(c.file), 0o600))
		must(t, m.NoteSeen(c.seen))
		if f := m.inspect(); f.Seen.Since != c.since || f.Seen.RecordSeen != c.seen {
			t.Errorf("after %s: %+v since term %d", c.file, f.Seen, f.Seen.Since)
		}
	}
	must(t, os.WriteFile(m.state("record"), []byte(`{"term":`), 0o600))
	if f := m.inspect(); f.Seen != (ha.RecordKept{}) {
		t.Errorf("a damaged file is read as %+v", f.Seen)
	}
}
