package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// stateKey reads the cluster record in Consul or, with a value, replaces it.
func (r *rig) stateKey(value string) string {
	r.t.Helper()
	method, url := http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/v1/kv/pgsidecar/pg/state?raw", r.consul)
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

// TestStateKeyUnusable: a record that is damaged by hand, or was written by a
// newer program, ends the member with a message, also a primary that runs; with
// the record as it was the member goes on with the same data.
func TestStateKeyUnusable(t *testing.T) {
	r := newRig(t)
	r.startConsul()
	r.start()
	r.logged(long, "announced", "tag=primary", "term=1")
	good := r.stateKey("")
	for _, c := range []struct{ name, value, words string }{
		{"damaged", good[:len(good)/2], "not a record in JSON"},
		{"newer", strings.Replace(good, `"version":1`, `"version":99`, 1), "upgrade pgsidecar"},
	} {
		r.stateKey(c.value)
		if code := r.exits(long); code != exitFailed {
			t.Errorf("%s: exit status %d", c.name, code)
		}
		r.logged(time.Second, "the member ends", "cluster record cannot be used", c.words, "put the state key in Consul back")
		if got := r.stateKey(""); got != c.value {
			t.Errorf("%s: the record was changed to %s", c.name, got)
		}
		r.start()
		if code := r.exits(long); code != exitFailed {
			t.Errorf("%s, at the start: exit status %d", c.name, code)
		}
		r.stateKey(good)
		r.start()
		r.logged(long, "announced", "tag=primary", "term=1")
	}
	r.stop()
	if strings.Contains(r.log.String(), "init:") {
		t.Error("a new data directory was made")
	}
}
