package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// TestUnreachedTimeline: both replicas have fetched the history of a new primary, which
// died before they had any of its log. PostgreSQL would promote them with a wrong
// ancestor, so the one that leads is started without that history. The other may have
// taken the lost timeline for its target, and would follow nobody on another.
func TestUnreachedTimeline(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	o := newOperated(t)
	st := o.whole(t)
	timeline, err := strconv.Atoi(o.asked(t, st.Leader, "select timeline_id::text from pg_control_checkpoint()"))
	if err != nil {
		t.Fatal(err)
	}
	o.claimed(t, timeline+1)
	for _, m := range o.replicas(st) {
		h, err := o.Plan().Host(m)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(h.DataDir(), "pg_wal")
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		name, owner := filepath.Join(dir, fmt.Sprintf("%08X.history", timeline+1)), info.Sys().(*syscall.Stat_t)
		if err := os.WriteFile(name, fmt.Appendf(nil, "%d\tF/0\tno recovery target specified\n", timeline), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(name, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.KillMember(t.Context(), st.Leader); err != nil {
		t.Fatal(err)
	}
	o.until(t, "another leader", func() bool {
		_, shown, _ := command(t, "status", "--json")
		var now api.Status
		return json.Unmarshal([]byte(shown), &now) == nil && now.Leader != st.Leader && now.Phase == ha.PhaseLeading
	})
	if err := o.Start(t.Context(), st.Leader, lab.Sidecar); err != nil {
		t.Fatal(err)
	}
	o.whole(t)
}

// claimed makes the record say that the timeline was claimed.
func (o *operated) claimed(t *testing.T, timeline int) {
	t.Helper()
	consul, err := o.ConsulClient(o.Plan().App().Name)
	if err != nil {
		t.Fatal(err)
	}
	key := o.Plan().Prefix + "/" + o.Plan().Cluster + "/state"
	o.until(t, "change of the record", func() bool {
		pair, _, err := consul.KV().Get(key, nil)
		if err != nil || pair == nil {
			t.Fatalf("%v, %v", pair, err)
		}
		var record ha.Record
		if err := json.Unmarshal(pair.Value, &record); err != nil {
			t.Fatal(err)
		}
		record.Timeline = ha.TLI(timeline)
		if pair.Value, err = json.Marshal(record); err != nil {
			t.Fatal(err)
		}
		done, _, err := consul.KV().CAS(pair, nil)
		return done && err == nil
	})
}
