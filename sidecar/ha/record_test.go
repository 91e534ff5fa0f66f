package ha_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func validRecord() ha.Record {
	return ha.Record{
		Version: 1, SystemID: "7", Term: 3, Leader: "a", Timeline: 2, Phase: ha.PhaseLeading,
		Durability: ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"b", "c"}}, Members: []string{"a", "b", "c"},
	}
}

func TestValidateRecord(t *testing.T) {
	if err := validRecord().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(*ha.Record){
		"newer version":        func(r *ha.Record) { r.Version = ha.RecordVersion + 1 },
		"no version":           func(r *ha.Record) { r.Version = 0 },
		"no term":              func(r *ha.Record) { r.Term = 0 },
		"unknown phase":        func(r *ha.Record) { r.Phase = "ruling" },
		"unknown mode":         func(r *ha.Record) { r.Durability.Mode = "maybe" },
		"more than there are":  func(r *ha.Record) { r.Durability.K = 3 },
		"negative k":           func(r *ha.Record) { r.Durability.K = -1 },
		"unsorted voters":      func(r *ha.Record) { r.Durability.Voters = []string{"c", "b"} },
		"no system identifier": func(r *ha.Record) { r.SystemID = "" },
	} {
		r := validRecord()
		damage(&r)
		if err := r.Validate(); !errors.Is(err, ha.ErrRecord) {
			t.Errorf("%s: got %v, want ErrRecord", name, err)
		}
	}
}

// TestRecordText pins the layout that other versions and people read.
func TestRecordText(t *testing.T) {
	r := validRecord()
	r.Index = 99
	r.Final = &ha.Final{Member: "a", Position: ha.Position{TLI: 2, LSN: 0x16B374D848, History: []ha.Fork{{TLI: 1, End: 255}}}}
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":1,"system_identifier":"7","term":3,"leader":"a","timeline":2,"phase":"leading",` +
		`"durability":{"mode":"quorum","k":1,"voters":["b","c"]},"members":["a","b","c"],"origin":{"term":0,"leader":""},` +
		`"final":{"member":"a","position":{"history":[{"tli":1,"end":"0/FF"}],"tli":2,"lsn":"16/B374D848"}}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
