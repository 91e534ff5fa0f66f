package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// recordLost: somebody deletes the cluster's keys in Consul, after a failover. The
// primary founds the cluster anew without a restart, and all follow it.
func (o *operated) recordLost(t *testing.T) {
	st := o.whole(t)
	if st.Term < 2 {
		t.Fatalf("term %d", st.Term)
	}
	const started = "select pg_postmaster_start_time()::text"
	since := o.asked(t, st.Leader, started)
	consul, err := o.ConsulClient(o.Plan().App().Name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := consul.KV().DeleteTree(o.Plan().Prefix+"/"+o.Plan().Cluster+"/", nil); err != nil {
		t.Fatal(err)
	}
	o.until(t, "new record", func() bool {
		_, shown, _ := command(t, "status", "--json")
		var now api.Status
		return json.Unmarshal([]byte(shown), &now) == nil && strings.Contains(now.Reason, "founded") && now.Phase == ha.PhaseLeading
	})
	if now := o.whole(t); now.Leader != st.Leader || o.asked(t, st.Leader, started) != since {
		t.Errorf("%s leads, since %s; before it was %s, since %s", now.Leader, o.asked(t, now.Leader, started), st.Leader, since)
	}
}
