package config_test

import (
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// TestTraceOfEnvironment: a block whose collector the environment names is one without a
// collector where it names none.
func TestTraceOfEnvironment(t *testing.T) {
	const source = `trace { endpoint = env("OTEL_EXPORTER_OTLP_ENDPOINT", "") }`
	for _, c := range []struct {
		env  []string
		want string
	}{{nil, ""}, {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"}, "http://127.0.0.1:4318"}} {
		got := parse(t, source, c.env...)
		if got.Trace.Endpoint != c.want {
			t.Errorf("%q: %+v", c.env, got.Trace)
		}
	}
	if _, err := config.Parse("pg.hcl", []byte(`trace { endpoint = 4318 }`+passwords), environment()); err == nil {
		t.Error("a number was taken")
	}
}
