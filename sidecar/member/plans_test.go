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
