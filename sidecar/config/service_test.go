package config_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// TestServiceName: the service has the cluster's name, unless it has its own.
func TestServiceName(t *testing.T) {
	minimal, err := os.ReadFile("testdata/minimal.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`cluster = "billing"`: "billing",
		"cluster = \"billing\"\nservice {\n  tags = [\"blue\"]\n}": "billing",
		"cluster = \"billing\"\nservice {\n  name = \"pg\"\n}":     "pg",
	} {
		member, err := config.Parse("testdata/pg.hcl", []byte(text+"\n"+string(minimal)), environment())
		if err != nil || member.Service.Name != want {
			t.Errorf("%s: a member's service is %+v, %v; want %s", text, member, err, want)
		}
	}
	if _, err := config.Parse("testdata/pg.hcl", []byte("service {\n  name = \"\"\n}\n"+string(minimal)), environment()); err == nil {
		t.Error("an empty name was accepted")
	}
}

// TestServiceTags: what other programs look for in Consul is taken, as they write it; what ends
// a line, or is a role's, is not.
func TestServiceTags(t *testing.T) {
	minimal, err := os.ReadFile("testdata/minimal.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for tag, want := range map[string]bool{
		"europe": true, "Europe": true, "traefik.enable=true": true, "traefik.tcp.routers.pg.rule=HostSNI(`*`)": true,
		"urlprefix-:5432 proto=tcp": true, "prometheus.io/scrape=true": true, "größe": true,
		"": false, " europe": false, "a\nb": false, "a\tb": false, "primary": false, "Replica": false, "standby-leader": false, strings.Repeat("x", 256): false,
	} {
		_, err := config.Parse("testdata/pg.hcl", fmt.Appendf(minimal[:len(minimal):len(minimal)], "\nservice {\n  tags = [%q]\n}\n", tag), environment())
		if (err == nil) != want {
			t.Errorf("tag %q: %v", tag, err)
		}
	}
}
