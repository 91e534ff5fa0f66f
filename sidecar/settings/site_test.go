package settings_test

import (
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// TestSite: what cannot be another site, or its witness, is refused in words that say what
// is expected.
func TestSite(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"a service":                       {`{"service":"pg","datacenter":"dc1","witness":"dc3"}`, ""},
		"a witness at an address":         {`{"service":"pg","datacenter":"dc1","witness":"https://10.3.0.1:8501"}`, ""},
		"addresses":                       {`{"addresses":["10.1.0.1:5432"],"apis":["10.1.0.1:8008"],"alone":"open"}`, ""},
		"nothing":                         {`{"witness":"dc3"}`, `expected service = "pg"`},
		"both ways":                       {`{"service":"pg","addresses":["10.1.0.1:5432"]}`, "a service or addresses, not both"},
		"no port":                         {`{"addresses":["10.1.0.1"]}`, "expected host:port"},
		"a witness without a port":        {`{"service":"pg","witness":"https://consul.example"}`, "expected http://host:port"},
		"a witness with a path":           {`{"service":"pg","witness":"http://10.3.0.1:8500/v1"}`, "expected http://host:port"},
		"a witness of another kind":       {`{"service":"pg","witness":"etcd://10.3.0.1:2379"}`, "expected http://host:port"},
		"a witness that is an address":    {`{"service":"pg","witness":"10.3.0.1:8500"}`, "expected a third Consul"},
		"the other site's own datacenter": {`{"service":"pg","datacenter":"dc1","witness":"dc1"}`, "the other site's own datacenter"},
		"a word for alone":                {`{"service":"pg","alone":"maybe"}`, "it is open or closed"},
	} {
		_, err := settings.Parse([]byte(`{"standby_of":` + c.text + `}`))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
