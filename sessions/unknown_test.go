package sessions

import (
	"encoding/json"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// What a newer program put into the record outlives an older one's change of it; what
// this program knows and leaves out does not.
func TestUnknownFieldsAreKept(t *testing.T) {
	record := ha.Record{Version: 1, SystemID: "7", Term: 2, Leader: "n2", Phase: ha.PhaseElecting,
		Durability: ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"n1"}}, Members: []string{"n1", "n2"}}
	plain, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ known, want string }{
		"no key":       {"", string(plain)},
		"damaged":      {`{"version":`, string(plain)},
		"no object":    {`[1]`, string(plain)},
		"null":         {`null`, string(plain)},
		"nothing new":  {`{"version":1,"term":1,"fenced":true,"final":{"member":"n1"},"reason":"x"}`, string(plain)},
		"a site":       {`{"standby_of":"pg@dc1","epoch":3,"released":{"tli":1,"lsn":"0/1"}}`, string(plain)},
		"a new field":  {`{"version":1,"term":1,"zones":["a"],"fenced":true}`, `{"zones":["a"]}`},
		"a nested one": {`{"durability":{"mode":"async","k":0,"voters":[],"lease":"5s"},"origin":{"since":9}}`, `{"durability":{"lease":"5s"},"origin":{"since":9}}`},
	} {
		got, err := encode(record, []byte(c.known))
		if err != nil {
			t.Fatal(err)
		}
		var back ha.Record
		if err := json.Unmarshal(got, &back); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if again, _ := json.Marshal(back); string(again) != string(plain) {
			t.Errorf("%s: the record became %s", name, again)
		}
		if c.want == string(plain) {
			if string(got) != c.want {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
			continue
		}
		if !within(t, []byte(c.want), got) {
			t.Errorf("%s: %s lacks %s", name, got, c.want)
		}
	}
}

// within reports whether an object has all fields of another, at each depth.
func within(t *testing.T, part, whole []byte) bool {
	t.Helper()
	var a, b any
	if json.Unmarshal(part, &a) != nil || json.Unmarshal(whole, &b) != nil {
		t.Fatalf("no JSON: %s, %s", part, whole)
	}
	var in func(a, b any) bool
	in = func(a, b any) bool {
		object, ok := a.(map[string]any)
		if !ok {
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			return string(x) == string(y)
		}
		other, _ := b.(map[string]any)
		for name, value := range object {
			if !in(value, other[name]) {
				return false
			}
		}
		return true
	}
	return in(a, b)
}
