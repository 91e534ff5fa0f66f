package settings_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// TestReadOnce: what is stored is parsed once a change.
func TestReadOnce(t *testing.T) {
	wrong := 0
	r := settings.Reader{Wrong: func(error) { wrong++ }}
	first := r.Read([]byte(`{"parameters":{"work_mem":"4MB"},"new":1}`), 1)
	again := r.Read([]byte(`{"parameters":{"work_mem":"4MB"},"new":1}`), 2)
	if reflect.ValueOf(first.Parameters).Pointer() != reflect.ValueOf(again.Parameters).Pointer() || wrong != 1 || again.Index != 2 {
		t.Errorf("parsed again: wrong %d times, %+v", wrong, again)
	}
	if r.Read([]byte(`{"parameters":{"work_mem":"8MB"}}`), 3).Parameters["work_mem"] != "8MB" {
		t.Error("a change was not read")
	}
}

// TestSalvaged: of settings with which something is wrong, the rest holds: those of a
// newer version, or that somebody has written into the key by hand.
func TestSalvaged(t *testing.T) {
	for _, c := range []struct {
		name, before, stored string
		want                 func(settings.Stored) bool
	}{
		{"a key of a newer version", ``, `{"paused":{},"newer":{"a":1}}`, func(s settings.Stored) bool { return s.Paused.Holds(time.Now()) }},
		{"a wrong group", `{"durability":{"standbys":2}}`, `{"durability":{"standbys":99},"hba":["local all all trust"]}`,
			func(s settings.Stored) bool { return *s.Durability.Standbys == 2 && len(s.HBA) == 1 }},
		{"a wrong type", ``, `{"failover_slots":"yes","paused":{}}`, func(s settings.Stored) bool { return s.Paused != nil && !s.FailoverSlots }},
		{"a wrong slot", ``, `{"slots":{"a":{"type":"physical"},"B":{"type":"physical"}}}`, func(s settings.Stored) bool { return len(s.Slots) == 1 }},
		{"no JSON, after some that was", `{"paused":{}}`, `{"paused`, func(s settings.Stored) bool { return s.Paused != nil && !s.Unread }},
		{"no JSON, and nothing before", ``, `{"paused`, func(s settings.Stored) bool { return s.Paused == nil && s.Unread }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r settings.Reader
			if before := r.Read([]byte(c.before), 1); before.Err != nil {
				t.Fatal(before.Err)
			}
			if s := r.Read([]byte(c.stored), 2); !errors.Is(s.Err, settings.ErrSettings) || !c.want(s) {
				t.Errorf("got %+v, %v", s.Settings, s.Err)
			}
		})
	}
	if s := new(settings.Reader).Read(nil, 0); s.Err != nil || s.Unread {
		t.Errorf("no settings: %+v", s)
	}
}
