package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/proxy"
)

// TestOutput: what shows something shows it as JSON and as YAML too, and the two
// say the same.
func TestOutput(t *testing.T) {
	n1, _ := fakeCluster(t)
	for _, line := range []string{"status", "topology", "history", "version", "drill --list", "nomad job"} {
		read := func(format string, parse func([]byte, any) error) any {
			args := append(strings.Fields(line), "--output", format)
			if line == "status" || line == "topology" || line == "history" {
				args = append(args, "--api", n1.address())
			}
			code, stdout, stderr := command(t, args...)
			var got any
			if err := parse([]byte(stdout), &got); err != nil || code != ExitOK || stderr != "" {
				t.Errorf("%s as %s: exit status %d, %v, stderr %q\n%s", line, format, code, err, stderr, stdout)
			}
			text, err := json.Marshal(got) // numbers of one kind
			if err != nil {
				t.Fatal(err)
			}
			var plain any
			if err := json.Unmarshal(text, &plain); err != nil {
				t.Fatal(err)
			}
			return plain
		}
		if x, y := read("json", json.Unmarshal), read("yaml", yaml.Unmarshal); !reflect.DeepEqual(x, y) || x == nil {
			t.Errorf("%s:\n%v as JSON\n%v as YAML", line, x, y)
		}
	}
	if code, _, stderr := command(t, "status", "--output", "xml"); code != ExitUsage || !strings.Contains(stderr, "expected table, json or yaml") {
		t.Errorf("xml: exit status %d, %s", code, stderr)
	}
}

// TestShowRendered: people see the difference or the whole files, programs a list.
func TestShowRendered(t *testing.T) {
	all := []proxy.Rendered{{Name: "a", Destination: "/etc/a", Differs: true, Diff: "+new\n"}, {Name: "b", Destination: "/etc/b"}}
	whole := []proxy.Rendered{{Name: "a", Destination: "/etc/a", Content: "new\n"}}
	for _, c := range []struct {
		files  []proxy.Rendered
		format output
		want   string
	}{
		{all, asTable, "+new\n"},
		{whole, asTable, "==> /etc/a <==\nnew\n"},
		{all, asYAML, "- template: a\n  destination: /etc/a\n  differs: true\n  diff: |\n    +new\n- template: b\n  destination: /etc/b\n  differs: false\n"},
		{nil, asJSON, "[]\n"},
	} {
		var b strings.Builder
		if err := showRendered(&b, c.files, c.format); err != nil || b.String() != c.want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, b.String(), c.want)
		}
	}
}

// TestYAMLKeepsKinds: a text that looks like something else stays a text.
func TestYAMLKeepsKinds(t *testing.T) {
	const text = `{"a":"true","b":"12","c":12,"d":null,"e":"","f":[],"g":"x: y\nz","h":"0/3000000"}`
	got, err := toYAML([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var want, back any
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	if x, _ := json.Marshal(want); !strings.HasPrefix(string(got), `a: "true"`) {
		t.Errorf("%s\n%s", x, got)
	}
	x, _ := json.Marshal(want)
	y, _ := json.Marshal(back)
	if string(x) != string(y) {
		t.Errorf("%s, want %s", y, x)
	}
}

func TestTopology(t *testing.T) {
	n1, n2 := fakeCluster(t)
	n1.status.Upstream = "n2"
	n2.status.Term = 7
	code, got, stderr := command(t, "topology", "--api", n1.address())
	want := `cluster pg · term 7 · leader n2, whose lease has 4.6s left

n2     primary      writable          -        10.0.0.2:5432
├─ n1  replica      streaming, voter  3 MB     10.0.0.1:5432
└─ n3  was replica  silent            unknown  10.0.0.3:5432
`
	if code != ExitOK || got != want || stderr != "" {
		t.Errorf("exit status %d, stderr %q\n%s", code, stderr, got)
	}
}

// TestTree: a cascade is shown, and nobody is left out, whatever members say.
func TestTree(t *testing.T) {
	var words func(all []*screen.Branch) string
	words = func(all []*screen.Branch) string {
		var parts []string
		for _, b := range all {
			part := b.Member
			if len(b.Replicas) > 0 {
				part += "(" + words(b.Replicas) + ")"
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, " ")
	}
	for _, c := range []struct {
		name, leader string
		upstream     map[string]string
		want         string
	}{
		{"flat", "n2", map[string]string{"n1": "n2", "n3": "n2", "n4": "n2"}, "n2(n1 n3 n4)"},
		{"cascade", "n1", map[string]string{"n2": "n1", "n3": "n2", "n4": "n3"}, "n1(n2(n3(n4)))"},
		{"unknown", "n1", map[string]string{"n2": "n9"}, "n1(n2 n3 n4)"},
		{"no leader", "", map[string]string{"n2": "n1"}, "n1(n2) n3 n4"},
		{"a circle", "n1", map[string]string{"n2": "n3", "n3": "n2", "n4": "n3"}, "n1(n2 n3(n4))"},
		{"a circle without a leader", "", map[string]string{"n2": "n3", "n3": "n2"}, "n1 n2 n3 n4"},
		{"itself", "n1", map[string]string{"n2": "n2"}, "n1(n2 n3 n4)"},
		{"a former primary", "n3", map[string]string{"n3": "n1", "n1": "n3", "n2": "n1"}, "n3(n1(n2) n4)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := &api.Status{Leader: c.leader, Members: []api.MemberStatus{{Member: "n1"}, {Member: "n2"}, {Member: "n3"}, {Member: "n4"}}}
			if got := words(screen.Tree(st, c.upstream)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// endsAfter ends a context when something was written.
type endsAfter struct {
	text bytes.Buffer
	end  context.CancelFunc
}

func (w *endsAfter) Write(p []byte) (int, error) {
	w.end()
	return w.text.Write(p)
}

// TestWatch: the status is shown until Ctrl-C, which is no failure, and without a
// terminal nothing clears a screen.
func TestWatch(t *testing.T) {
	n1, _ := fakeCluster(t)
	ctx, end := context.WithTimeout(t.Context(), time.Minute)
	out := &endsAfter{end: end}
	code := run(ctx, []string{"status", "--watch", "--api", n1.address()}, strings.NewReader(""), out, io.Discard)
	if code != ExitOK || !strings.HasPrefix(out.text.String(), "cluster pg") {
		t.Errorf("exit status %d, %s", code, out.text.String())
	}
}

// TestSettingsShow: what is set is shown as it is set, and can be read by programs.
func TestSettingsShow(t *testing.T) {
	m := newSettingsMember(t, `{"durability":{"standbys":1},"parameters":{"work_mem":"64MB","a.b":"true"},"hba":["host all all all md5"]}`)
	code, got, stderr := command(t, "settings", "show")
	want := "durability.standbys=1\nhba=[\"host all all all md5\"]\nparameters.a.b=true\nparameters.work_mem=64MB\n"
	if code != ExitOK || got != want || stderr != "" {
		t.Errorf("exit status %d, stderr %q\n%s", code, stderr, got)
	}
	// What is shown can be set, and then nothing has changed.
	if code, got, stderr := command(t, append([]string{"settings", "set"}, strings.Split(strings.TrimSpace(want), "\n")...)...); code != ExitOK || got != "already set; nothing to change\n" {
		t.Errorf("set what is shown: exit status %d, %s%s", code, got, stderr)
	}
	if _, got, _ := command(t, "settings", "show", "--output", "yaml"); !strings.Contains(got, "durability:\n  standbys: 1\n") || !strings.Contains(got, `a.b: "true"`) {
		t.Errorf("as YAML:\n%s", got)
	}
	if _, x, _ := command(t, "settings", "show", "--output", "json"); x == "" {
		t.Error("no JSON")
	} else if _, y, _ := command(t, "config", "show", "--cluster"); x != y {
		t.Errorf("by its former name:\n%s\nnow\n%s", y, x)
	}
	m.stored = "{}"
	if _, got, _ := command(t, "settings", "show"); !strings.HasPrefix(got, "no cluster-wide settings") {
		t.Errorf("no settings: %s", got)
	}
}
