package sessions_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
)

// oneKey is a Consul that has one key.
type oneKey struct {
	mu    sync.Mutex
	value []byte
	index uint64
	asked []string
}

func (k *oneKey) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, r.Method+" "+r.URL.RequestURI())
	w.Header().Set("X-Consul-Index", strconv.FormatUint(k.index+1, 10))
	if r.Method == http.MethodPut {
		body, err := io.ReadAll(r.Body)
		cas := r.URL.Query().Get("cas")
		done := err == nil && cas == strconv.FormatUint(k.index, 10)
		if done && !bytes.Equal(k.value, body) { // Consul changes nothing for the same value
			k.value, k.index = body, k.index+7
		}
		json.NewEncoder(w).Encode(done) //nolint:errcheck // the client would see it
		return
	}
	if k.value == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	json.NewEncoder(w).Encode([]map[string]any{{"Key": "x", "Value": k.value, "ModifyIndex": k.index, "CreateIndex": 1, "LockIndex": 0, "Flags": 0}}) //nolint:errcheck // as above
}

// TestWitness: the word is changed only by who has read the newest, at an address of its
// own or in another datacenter.
func TestWitness(t *testing.T) {
	key := &oneKey{}
	server := httptest.NewServer(key)
	defer server.Close()
	c, err := sessions.New(sessions.Options{Addresses: []string{strings.TrimPrefix(server.URL, "http://")}, Cluster: "pg", Member: "n1", Datacenter: "dc1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"dc3": "dc=dc3", server.URL: "/v1/kv/pgsidecar/sites/6789"} {
		key.value, key.index, key.asked = nil, 0, nil
		w, err := c.Witness(name, "6789")
		if err != nil {
			t.Fatal(err)
		}
		if word, index, err := w.Read(t.Context(), 0); index != 0 || err != nil {
			t.Fatalf("%s: nobody has it: %+v %d %v", name, word, index, err)
		}
		mine := sessions.Word{Half: 1, Epoch: 3, Cluster: "pg", Member: "n1"}
		if done, err := w.Write(t.Context(), mine, 0); !done || err != nil {
			t.Fatalf("%s: %t %v", name, done, err)
		}
		word, index, err := w.Read(t.Context(), 0)
		if word != mine || index != 7 || err != nil {
			t.Fatalf("%s: %+v %d %v", name, word, index, err)
		}
		if done, err := w.Write(t.Context(), sessions.Word{}, 0); done || err != nil {
			t.Errorf("%s: an old word replaced a newer: %t %v", name, done, err)
		}
		if asked := strings.Join(key.asked, " "); !strings.Contains(asked, want) || !strings.Contains(asked, "consistent") {
			t.Errorf("%s: asked %s", name, asked)
		}
		if name != "dc3" && strings.Contains(strings.Join(key.asked, " "), "dc=") {
			t.Errorf("the witness at an address was asked for another datacenter: %v", key.asked)
		}
	}
	for _, bad := range []string{"ftp://10.3.0.1:21", "http://10.3.0.1:8500/path"} {
		if _, err := c.Witness(bad, "6789"); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	server.Close()
	w, err := c.Witness("dc3", "6789")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Read(t.Context(), 0); err == nil {
		t.Error("a witness that is away has answered")
	}
}

// TestWitnessIsRenewed: who reads the word sees that it was renewed, also where it says the
// same: for Consul that is no change, and leaves the index as it was.
func TestWitnessIsRenewed(t *testing.T) {
	key := &oneKey{}
	server := httptest.NewServer(key)
	defer server.Close()
	addresses := map[string]string{"in memory": strings.TrimPrefix(server.URL, "http://")}
	if !testing.Short() {
		addresses["Consul"] = labtest.StartConsul(t, labtest.ConsulOptions{}).Address
	}
	for name, address := range addresses {
		c, err := sessions.New(sessions.Options{Addresses: []string{address}, Cluster: "pg", Member: "n1", Datacenter: "dc1"})
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Witness("http://"+address, "6789")
		if err != nil {
			t.Fatal(err)
		}
		mine, last := sessions.Word{Half: 1, Term: 2, Epoch: 3, Cluster: "pg", Member: "n1"}, uint64(0)
		for range 3 {
			if done, err := w.Write(t.Context(), mine, last); !done || err != nil {
				t.Fatalf("%s: %t %v", name, done, err)
			}
			word, index, err := w.Read(t.Context(), 0)
			if err != nil || word != mine {
				t.Fatalf("%s: %+v %v", name, word, err)
			}
			if index == last {
				t.Errorf("%s: a word that was renewed has the index %d still", name, index)
			}
			last = index
		}
	}
}
