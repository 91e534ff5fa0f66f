package drill_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
)

// TestLastDrills: the newest drills are kept with the last one, in their order and no more
// than ten; what another version has written counts as none.
func TestLastDrills(t *testing.T) {
	kept := []byte(`["of another version"]`)
	for i := range 20 {
		var err error
		if kept, err = (drill.Last{Scenario: fmt.Sprint(i), Passed: true}).After(kept); err != nil {
			t.Fatal(err)
		}
	}
	var last drill.Last
	if err := json.Unmarshal(kept, &last); err != nil {
		t.Fatal(err)
	}
	if last.Scenario != "19" || len(last.Before) != 9 {
		t.Fatalf("%+v", last)
	}
	for i, before := range last.Before {
		if before.Scenario != fmt.Sprint(18-i) || len(before.Before) != 0 {
			t.Errorf("%d: %+v", i, before)
		}
	}
}
