package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
)

// stateKey reads the cluster record in Consul or, with a value, replaces it.
func (r *rig) stateKey(value string) string { return r.key("state", value) }

// key reads one of the cluster's keys, or replaces it by a value that is not empty.
func (r *rig) key(name, value string) string {
	r.t.Helper()
	method, url := http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/v1/kv/pgsidecar/pg/%s?raw", r.consul, name)
	if value != "" {
		method = http.MethodPut
	}
	request, err := http.NewRequestWithContext(r.t.Context(), method, url, strings.NewReader(value))
	if err != nil {
		r.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		r.t.Fatalf("%s %s: %s: %s, %v", method, url, answer.Status, body, err)
	}
	return string(body)
}

// TestStateKeyNewer: a record that was written by a newer program ends the member with a
// message, also a primary that runs; with the record as it was the member goes on with the
// same data.
func TestStateKeyNewer(t *testing.T) {
	r := newRig(t)
	r.startConsul()
	r.start()
	r.logged(long, "announced", "tag=primary", "term=1")
	good := r.stateKey("")
	newer := strings.Replace(good, `"version":1`, `"version":99`, 1)
	r.stateKey(newer)
	if code := r.exits(long); code != cli.ExitFailed {
		t.Errorf("exit status %d", code)
	}
	r.logged(time.Second, "the member ends", "cluster record cannot be used", "upgrade pgsidecar", "nothing was changed")
	if got := r.stateKey(""); got != newer {
		t.Errorf("the record was changed to %s", got)
	}
	r.start()
	if code := r.exits(long); code != cli.ExitFailed {
		t.Errorf("at the start: exit status %d", code)
	}
	r.stateKey(good)
	r.start()
	r.logged(long, "announced", "tag=primary", "term=1")
	r.stop()
	if strings.Contains(r.log.String(), "init:") {
		t.Error("a new data directory was made")
	}
}

// TestStateKeyDamaged: one bad write to the record stops no server. The primary that runs
// writes it again; a member that has just started, and knows no better, says how it is put
// right, and goes on when it is.
func TestStateKeyDamaged(t *testing.T) {
	r := newRig(t)
	r.startConsul()
	r.start()
	r.logged(long, "announced", "tag=primary", "term=1")
	good := r.stateKey("")
	bad := good[:len(good)/2]
	r.stateKey(bad)
	r.logged(long, "restate")
	if got := r.stateKey(""); unchanged(t, got) != unchanged(t, good) {
		t.Errorf("the record is %s, and was %s", got, good)
	}
	r.stop()
	r.stateKey(bad)
	r.start()
	r.logged(long, "not a record in JSON", "put the state key back as it was")
	if got := r.stateKey(""); got != bad {
		t.Errorf("the record was changed to %s", got)
	}
	r.stateKey(good)
	r.logged(long, "announced", "tag=primary", "term=1")
	r.stop()
	if strings.Contains(r.log.String(), "init:") {
		t.Error("a new data directory was made")
	}
}

// unchanged is a record without the count of its changes, which writing it again raises.
func unchanged(t *testing.T, record string) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(record), &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "changes")
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
