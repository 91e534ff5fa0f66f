package member

import (
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// TestCloneSource: a replica is cloned if it was named, or has the tag; and not again soon after
// its copy came to nothing, as nobody would ever be cloned then.
func TestCloneSource(t *testing.T) {
	leader, tagged, other := postgres.Source{Member: "n1"}, postgres.Source{Member: "n2"}, postgres.Source{Member: "n3"}
	s := &localServer{log: hclog.NewNullLogger(), around: around{others: func() peersView {
		return peersView{copies: []postgres.Source{tagged, other}, tagged: []string{"n2"}}
	}}}
	want := func(when, member string) {
		t.Helper()
		if got := s.cloneSource(leader).Member; got != member {
			t.Errorf("%s: %s is cloned, want %s", when, got, member)
		}
	}
	want("one has the tag", "n2")
	s.avoid("n2")
	want("its copy came to nothing", "n1")
	s.copies.avoidedAt = time.Now().Add(-2 * backupAgain)
	want("that was long ago", "n2")
	s.cloneNextFrom("n3")
	want("another was named", "n3")
	s.avoid("n3")
	want("its copy came to nothing as well", "n1")
	s.cloneNextFrom("n3")
	want("it was named again", "n3")
	s.cloneNextFrom("n4")
	want("the one that was named does not stream", "n1")
}
