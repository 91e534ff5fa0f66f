package member

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/nomad"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// TestPriorityUnderNomad: among members that are tasks of Nomad the configured priority
// decides first, whether a file says it or the cluster-wide settings, and the
// allocation's rank among equals.
func TestPriorityUnderNomad(t *testing.T) {
	effective := func(name, index string, file int, stored string) int {
		allocation, in, err := nomad.FromEnvironment(func(key string) string {
			return map[string]string{"NOMAD_ALLOC_ID": "a-" + index, "NOMAD_ALLOC_INDEX": index, "NOMAD_GROUP_NAME": "pg", "NOMAD_JOB_NAME": "pg",
				"NOMAD_ALLOC_DIR": t.TempDir()}[key]
		})
		if !in || err != nil {
			t.Fatal(in, err)
		}
		m := &Member{config: &config.Config{Member: name}, task: &task{allocation: allocation}}
		m.current.Store(&config.Config{Member: name, Tags: config.Tags{Priority: file}})
		o := m.options()
		return o.EffectivePolicy(new(settings.Reader).Read([]byte(stored), 1).Settings, time.Now()).Priority
	}
	for _, c := range []struct {
		name, stored string
		n2, n3       int // in their files
		first        string
	}{
		{"nobody says anything: the rank", ``, 0, 0, "n3"},
		{"a file's", ``, 10, 0, "n2"},
		{"the cluster's", `{"tags":{"n2":{"priority":10}}}`, 0, 0, "n2"},
		{"the cluster's over a file's", `{"tags":{"n2":{"priority":10}}}`, 0, 5, "n2"},
		{"the cluster's, and lower than a file's", `{"tags":{"n2":{"priority":10}}}`, 0, 20, "n3"},
	} {
		n2, n3 := effective("n2", "1", c.n2, c.stored), effective("n3", "2", c.n3, c.stored)
		if first := map[bool]string{true: "n2", false: "n3"}[n2 > n3]; first != c.first || n2 == n3 {
			t.Errorf("%s: n2 has %d and n3 %d, and %s goes first; want %s", c.name, n2, n3, first, c.first)
		}
	}
}
