package member

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// TestPlanReplaces: a plan takes the place of the one before it, and nothing of that stays;
// none takes it away.
func TestPlanReplaces(t *testing.T) {
	at := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	type stored struct {
		Switchover *settings.PlannedSwitchover        `json:"switchover"`
		Restarts   map[string]settings.PlannedRestart `json:"restarts"`
	}
	doc := []byte("{}")
	store := func(patch map[string]any) stored {
		t.Helper()
		text, err := json.Marshal(patch)
		if err != nil {
			t.Fatal(err)
		}
		if doc, err = settings.Merge(doc, text); err != nil {
			t.Fatal(err)
		}
		var is stored
		if err := json.Unmarshal(doc, &is); err != nil {
			t.Fatal(err)
		}
		return is
	}
	for _, p := range []*settings.PlannedSwitchover{
		{At: at, From: "n2", To: "n1", Until: at.Add(time.Hour), Drain: "5s"}, {At: at.Add(24 * time.Hour), From: "n2"}, {At: at}, nil,
	} {
		if got := store(map[string]any{"switchover": switchoverPatch(p)}).Switchover; !reflect.DeepEqual(got, p) {
			t.Errorf("the switchover is %+v, want %+v", got, p)
		}
	}
	for _, p := range []*settings.PlannedRestart{
		{At: at, Role: "replica", Pending: true, PostgresVersion: "15.2", Timeout: "1m0s"}, {At: at.Add(24 * time.Hour)}, nil,
	} {
		got, there := store(map[string]any{"restarts": map[string]any{"n1": restartPatch(p)}}).Restarts["n1"]
		if there != (p != nil) || there && !reflect.DeepEqual(&got, p) {
			t.Errorf("the restart is %+v, want %+v", got, p)
		}
	}
}

// TestLeftovers: a removed member leaves no tag for a later one of its name, and nobody is told
// to stream from it; what is another's stays.
func TestLeftovers(t *testing.T) {
	for _, c := range []struct{ before, after string }{
		{`{}`, ``},
		{`{"tags":{"n1":{"nofailover":true}},"restarts":{"n1":{"at":"2031-01-01T00:00:00Z"}}}`, ``},
		{`{"tags":{"n3":{"nofailover":true,"zone":"a"},"n1":{"nosync":true}},"hba":["a"]}`, `{"hba":["a"],"tags":{"n1":{"nosync":true}}}`},
		{`{"tags":{"n2":{"replicatefrom":"n3","priority":2},"n1":{"replicatefrom":"n2"}}}`, `{"tags":{"n1":{"replicatefrom":"n2"},"n2":{"priority":2}}}`},
		{`{"switchover":{"at":"2031-01-01T00:00:00Z","to":"n3"},"hba":["a"]}`, `{"hba":["a"]}`},
		{`{"switchover":{"at":"2031-01-01T00:00:00Z","from":"n3"},"hba":["a"]}`, `{"hba":["a"]}`},
		{`{"switchover":{"at":"2031-01-01T00:00:00Z","to":"n1"}}`, ``},
		{`{"restarts":{"n3":{"at":"2031-01-01T00:00:00Z"},"n1":{"at":"2031-01-01T00:00:00Z"}}}`, `{"restarts":{"n1":{"at":"2031-01-01T00:00:00Z"}}}`},
	} {
		patch := leftovers(new(settings.Reader).Read([]byte(c.before), 1).Settings, "n3")
		if c.after == "" {
			if patch != nil {
				t.Errorf("%s: changed by %v", c.before, patch)
			}
			continue
		}
		text, err := json.Marshal(patch)
		if err != nil {
			t.Fatal(err)
		}
		after, err := settings.Merge([]byte(c.before), text)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if json.Unmarshal(after, &got) != nil || json.Unmarshal([]byte(c.after), &want) != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s became %s, want %s", c.before, after, c.after)
		}
	}
}
