package api_test

import (
	"net/http"
	"strings"
	"testing"
)

// TestScraped: the status tells who read the metrics last, and only who read them.
func TestScraped(t *testing.T) {
	b := newBench(t, busyView("n1"), nil)
	status := func() string { return b.ask(http.MethodGet, "/status").Body.String() }
	b.ask(http.MethodHead, "/metrics")
	if text := status(); strings.Contains(text, "metrics_read") {
		t.Errorf("nobody has read them: %s", text)
	}
	b.ask(http.MethodGet, "/metrics")
	if text := status(); !strings.Contains(text, `"metrics_read":{"seconds_ago":0`) || !strings.Contains(text, `"host":"192.0.2.1"`) {
		t.Errorf("they were read: %s", text)
	}
}
