package sessions_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sessions"
)

// A new record is a proxy's as soon as a blocking query brings it; a member waits for
// a consistent reading of record and lock.
func TestRecordHeard(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	leader := run(t, options("n1", server.http))
	leader.session(t)
	path, others := newFlaky(t, server.http), newFlaky(t, server.http)
	proxy, other := runAs(t, options("app", path.host()), (*sessions.Client).Follow), run(t, options("n2", others.host()))
	other.session(t)
	proxy.await(t, 10*time.Second, "the first reading", func(v sessions.View) bool { return v.Consul.SeenAt != 0 })

	path.fault.Store(int32(hideLock))
	others.fault.Store(int32(hideLock))
	must(t, leader.Commit(background(t), ballot(leader, "n1")))
	v := proxy.await(t, 10*time.Second, "the new record", func(v sessions.View) bool { return v.Consul.Record.Term == 1 })
	if v.Consul.Lock.Session != "" {
		t.Errorf("the lock has been read with it: %+v", v.Consul.Lock)
	}
	next := fmt.Sprintf("state %d", leader.View().Consul.Record.Index)
	eventually(t, 10*time.Second, "the member's next query", func() error {
		if _, asked := others.blocked.Load(next); !asked {
			return errors.New("it has not come")
		}
		return nil
	})
	if v := other.View(); v.Consul.Record.Term != 0 {
		t.Errorf("a member has taken a record without its lock: %+v", v.Consul)
	}

	path.fault.Store(int32(healthy))
	others.fault.Store(int32(healthy))
	for _, m := range []*member{proxy, other} {
		m.await(t, 20*time.Second, "the reading of both", func(v sessions.View) bool {
			return v.Consul.Record.Term == 1 && v.Consul.Lock.Holder == "n1"
		})
	}
}

// What a blocking query brings late is older than what is known, and changes nothing.
func TestOldRecordHeard(t *testing.T) {
	t.Parallel()
	value := func(term uint64) string {
		b, err := json.Marshal(electing(term, "n1", 0))
		must(t, err)
		return base64.StdEncoding.EncodeToString(b)
	}
	known, told := make(chan struct{}), make(chan struct{})
	var queries atomic.Int32
	consul := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state := strings.HasSuffix(r.URL.Path, "/state")
		switch {
		case r.URL.Path == "/v1/txn":
			_, _ = fmt.Fprintf(w, `{"Results":[{"KV":{"Key":"pgsidecar/main/state","Value":%q,"ModifyIndex":100}},{"KV":{"Key":"pgsidecar/main/leader","ModifyIndex":90}}]}`, value(2))
		case state && queries.Add(1) == 1:
			select {
			case <-r.Context().Done():
				return
			case <-known:
			}
			w.Header().Set("X-Consul-Index", "50")
			_, _ = fmt.Fprintf(w, `[{"Key":"pgsidecar/main/state","Value":%q,"ModifyIndex":50}]`, value(1))
		default:
			if state && queries.Load() == 2 {
				close(told)
			}
			<-r.Context().Done()
		}
	}))
	t.Cleanup(consul.Close)
	t.Cleanup(consul.CloseClientConnections)
	proxy := runAs(t, options("app", strings.TrimPrefix(consul.URL, "http://")), (*sessions.Client).Follow)
	proxy.await(t, 10*time.Second, "the first reading", func(v sessions.View) bool { return v.Consul.Record.Term == 2 })
	close(known)
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Fatal("the second query did not come")
	}
	if v := proxy.View(); v.Consul.Record.Term != 2 {
		t.Errorf("an old record has taken the newer one's place: %+v", v.Consul.Record)
	}
}
