package programs

import (
	"errors"
	"slices"
	"testing"
)

func TestDialect(t *testing.T) {
	for text, want := range map[string]struct {
		dialect ConsulDialect
		flags   int
		token   string
		told    bool
	}{
		"Consul v1.8.7\nProtocol 2 spoken by default":  {ConsulDialect{1, 8}, 1, "master", false},
		"Consul v1.10.12\n":                            {ConsulDialect{1, 10}, 1, "master", false},
		"Consul v1.14.11\nRevision dc1c1f8c+CHANGES\n": {ConsulDialect{1, 14}, 2, "initial_management", true},
		"Consul v1.22.5-dev\n":                         {ConsulDialect{1, 22}, 2, "initial_management", true},
		"Consul v2.0.0+ent\n":                          {ConsulDialect{2, 0}, 2, "initial_management", true},
	} {
		d, err := parseDialect(text)
		if err != nil || d != want.dialect || len(d.FlagsWithoutGRPC()) != want.flags || len(d.WithoutGRPC()) != want.flags ||
			d.ManagementToken() != want.token || d.TellsOfFiltered() != want.told {
			t.Errorf("%q: %+v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "Consul", "Consul v1.8", "Nomad v1.6.1", "Consul vx.8.7"} {
		if d, err := parseDialect(text); !errors.Is(err, ErrVersion) {
			t.Errorf("%q: %+v, %v", text, d, err)
		}
	}
	if _, err := DialectOf("/nowhere/consul"); !errors.Is(err, ErrVersion) {
		t.Errorf("a program that is not there: %v", err)
	}
	if flags := (ConsulDialect{1, 8}).FlagsWithoutGRPC(); !slices.Equal(flags, []string{"-grpc-port=-1"}) {
		t.Errorf("flags of 1.8: %q", flags)
	}
}
