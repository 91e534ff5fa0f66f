package main

import (
	"testing"
)

// recordLost: somebody deletes the cluster's keys in Consul, after a failover. The
// primary writes its record again without a restart or a new term, and all follow it.
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
	o.until(t, "the record again", func() bool {
		state, _, err := consul.KV().Get(o.Plan().Prefix+"/"+o.Plan().Cluster+"/state", nil)
		return err == nil && state != nil
	})
	if now := o.whole(t); now.Leader != st.Leader || now.Term != st.Term || o.asked(t, st.Leader, started) != since {
		t.Errorf("%s leads, since %s; before it was %s, since %s", now.Leader, o.asked(t, now.Leader, started), st.Leader, since)
	}
}
