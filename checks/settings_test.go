package checks

import "testing"

// TestUpstreamOf: whom a standby follows, and where, is read as it was written.
func TestUpstreamOf(t *testing.T) {
	for _, c := range []struct{ host, address string }{
		{"10.0.0.1", "10.0.0.1:5432"},
		{"db-1.example", "db-1.example:5432"},
		{"fd00::1", "[fd00::1]:5432"},
	} {
		text := ConnInfo(Upstream{Service: servicePrefix + "n1", Host: c.host, Port: 5432, User: `o'b\r`, Self: "n2"})
		if member, address := upstreamOf(text); member != "n1" || address != c.address {
			t.Errorf("%s: %q at %q, not n1 at %s", text, member, address, c.address)
		}
	}
	for _, text := range []string{"", "host='10.0.0.1' port='5432'", "service='another' host='10.0.0.1' port='5432'"} {
		if member, address := upstreamOf(text); member != "" || address != "" {
			t.Errorf("%q: %q at %q", text, member, address)
		}
	}
}
