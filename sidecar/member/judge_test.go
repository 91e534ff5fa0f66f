package member

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// TestFoundWithoutConfiguration: data whose configuration is elsewhere, as Debian's is, is
// refused before it is served with PostgreSQL's defaults; data of this member's own is not.
func TestFoundWithoutConfiguration(t *testing.T) {
	for _, c := range []struct {
		name        string
		data, state []string
		refused     bool
	}{
		{"nothing", nil, nil, false},
		{"Debian's", []string{"PG_VERSION"}, nil, true},
		{"with its configuration", []string{"PG_VERSION", "postgresql.conf"}, nil, false},
		{"served before", []string{"PG_VERSION"}, []string{"postgresql.conf"}, false},
		{"a copy", []string{"PG_VERSION"}, []string{"copy"}, false},
		{"a copy that is half made", []string{"PG_VERSION"}, []string{"unfinished"}, false},
	} {
		data, state := t.TempDir(), t.TempDir()
		for dir, names := range map[string][]string{data: c.data, state: c.state} {
			for _, name := range names {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := foundWithoutConfiguration(state, data); (err != nil) != c.refused {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestCheckMembers: settings that name members which are not there, and counts that the
// cluster cannot reach, are refused; what was stored before stays.
func TestCheckMembers(t *testing.T) {
	members := []string{"n1", "n2", "n3"}
	read := func(text string) settings.Settings { return new(settings.Reader).Read([]byte(text), 1).Settings }
	for _, c := range []struct{ before, after, says string }{
		{``, `{"tags":{"n3":{"nofailover":true,"replicatefrom":"n2"}},"durability":{"standbys":2}}`, ""},
		{``, `{"tags":{"n9":{"nofailover":true}}}`, "there is no member n9; there are n1, n2, n3"},
		{``, `{"tags":{"n3":{"replicatefrom":"n9"}}}`, "tags.n3.replicatefrom: there is no member n9"},
		{``, `{"durability":{"standbys":3}}`, "at most 2 standbys"},
		{`{"tags":{"n9":{}}}`, `{"tags":{"n9":{}},"hba":[]}`, ""},
		{`{"durability":{"standbys":5}}`, `{"durability":{"standbys":5},"hba":[]}`, ""},
		{`{"durability":{"standbys":5}}`, `{"durability":{"standbys":4}}`, "at most 2 standbys"},
	} {
		err := checkMembers(read(c.after), read(c.before), members)
		if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s after %s: %v", c.after, c.before, err)
		}
	}
}

// TestCheckZones: more zones than the members are in would have commits wait, and are refused.
func TestCheckZones(t *testing.T) {
	read := func(text string) settings.Settings { return new(settings.Reader).Read([]byte(text), 1).Settings }
	o := &ha.Observation{Self: "n1", Policy: ha.Policy{Zoning: ha.Zoning{Zone: "a"}}}
	o.Consul.Record.Members = []string{"n1", "n2", "n3"}
	o.Peers = []ha.Peer{{Member: "n2", Report: ha.Report{Tags: []ha.Tag{{Name: "zone", Value: "a"}}}}, {Member: "n3"}}
	for _, c := range []struct{ before, after, says string }{
		{``, `{"durability":{"zones":1}}`, ""},
		{``, `{"durability":{"zones":2}}`, "the zone of n3 is not known; set it first: pgsidecar settings set tags.n3.zone=NAME"},
		{``, `{"durability":{"zones":2},"tags":{"n3":{"zone":"a"}}}`, "the members are in only 1 (a)"},
		{``, `{"durability":{"zones":2},"tags":{"n3":{"zone":"b"}}}`, ""},
		{``, `{"durability":{"zones":3,"standbys":2},"tags":{"n3":{"zone":"b"}}}`, "the members are in only 2 (a, b)"},
		{`{"durability":{"zones":2}}`, `{"durability":{"zones":2},"hba":[]}`, ""},
		{`{"durability":{"zones":2},"tags":{"n3":{"zone":"b"}}}`, `{"durability":{"zones":2},"tags":{"n3":{"zone":"a"}}}`, "the members are in only 1 (a)"},
		{`{"durability":{"zones":2},"tags":{"n3":{"zone":"b"}}}`, `{"durability":{"zones":2},"tags":{"n3":{"zone":""}}}`, "the zone of n3 is not known"},
		{`{"durability":{"zones":2},"tags":{"n3":{"zone":"b"}}}`, `{"durability":{"zones":2},"tags":{"n3":{"zone":"c"}}}`, ""},
	} {
		err := checkZones(read(c.after), read(c.before), o)
		if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s after %s: %v", c.after, c.before, err)
		}
	}
}
