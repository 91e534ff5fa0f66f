package api_test

import (
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// TestAllow: changes are taken from the networks of the list and from members, whatever
// they show; everybody may read.
func TestAllow(t *testing.T) {
	allow := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	for from, want := range map[string]int{
		"192.0.2.9:1": 202, "[2001:db8::1]:1": 202, "[::ffff:192.0.2.9]:1": 202, "10.0.0.2:1": 202, // n2
		"198.51.100.1:1": 403, "[2001:db9::1]:1": 403, "127.0.0.1:1": 403, "10.0.0.9:1": 403, "nowhere": 403,
	} {
		for _, restricted := range []bool{true, false} {
			c := &control{}
			b := newBench(t, viewOf("n1"), func(o *api.Options) {
				o.Control = c
				if restricted {
					o.Allow = allow
				}
			})
			r := httptest.NewRequest("POST", "/reload", strings.NewReader(""))
			r.RemoteAddr = from
			r.Header.Set("Authorization", bearer)
			w := httptest.NewRecorder()
			b.Handler().ServeHTTP(w, r)
			if want := map[bool]int{true: want, false: 202}[restricted]; w.Code != want || (c.last() != "") != (want == 202) {
				t.Errorf("from %s: %d, want %d, asked %q", from, w.Code, want, c.last())
			}
			r = httptest.NewRequest("GET", "/primary", nil)
			r.RemoteAddr = from
			w = httptest.NewRecorder()
			b.Handler().ServeHTTP(w, r)
			if w.Code != 200 {
				t.Errorf("reading from %s: %d", from, w.Code)
			}
		}
	}
}
