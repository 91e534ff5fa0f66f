package templates_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/templates"
)

var update = flag.Bool("update", false, "write testdata/golden anew")

// fakeCatalog is a Consul with three keys and one service.
type fakeCatalog struct{ err error }

var _ templates.Catalog = fakeCatalog{}

func (c fakeCatalog) Key(_ context.Context, path string) (string, error) {
	v, found := map[string]string{"plain": "v", "empty": "", "evil": "x\n    server evil 6.6.6.6:1", "json": "{\"a\":\n[1,2]}"}[path]
	if c.err != nil || !found {
		return "", errors.Join(c.err, templates.ErrNotFound)
	}
	return v, nil
}

func (c fakeCatalog) List(context.Context, string) ([]templates.KeyPair, error) {
	return []templates.KeyPair{{Path: "p/x", Key: "x", Value: "1"}, {Path: "p/y/z", Key: "y/z", Value: "2"}}, c.err
}

func (c fakeCatalog) Instances(_ context.Context, name string, any bool) ([]templates.Instance, error) {
	list := []templates.Instance{{Name: name, Address: "10.0.0.1", Port: 80, Tags: []string{"blue", "fast"}}, {Name: name, Address: "10.0.0.2", Port: 81, Tags: []string{"green"}}}
	if any {
		list = append(list, templates.Instance{Name: name, Address: "10.0.0.3", Port: 82, Status: "critical"})
	}
	return list, c.err
}

func (c fakeCatalog) Services(context.Context) ([]templates.ServiceName, error) {
	return []templates.ServiceName{{Name: "web", Tags: []string{"blue"}}}, c.err
}

func testPage(t *testing.T) templates.Page {
	t.Helper()
	v6 := registered("c", "replica", "2")
	v6.Postgres, v6.API = "[2001:db8::3]:5433", "[2001:db8::3]:8008"
	other := registered("b", "replica", "2")
	other.API = "10.1.1.1:8008"
	top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"),
		Registered: []templates.Registration{registered("a", "primary", "2"), other, v6}})
	if err != nil {
		t.Fatal(err)
	}
	page, err := templates.NewPage(top, templates.Settings{HAProxy: templates.HAProxySettings{
		Socket: "/run/haproxy/admin.sock", StatsPort: 8404, Global: []string{"user haproxy", "log /dev/log local0"}}})
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func execute(t *testing.T, text string, c templates.Catalog) (string, error) {
	t.Helper()
	tmpl, err := templates.ParseTemplate("test", text, templates.Delimiters{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := tmpl.Render(t.Context(), testPage(t), templates.Env{
		Catalog: c,
		Getenv: func(name string) string {
			return map[string]string{"HOME": "/root", "VIP": "10.0.0.100/24", "VIP_INTERFACE": "lo"}[name]
		},
		Now: func() time.Time { return time.Unix(1700000000, 0) },
	})
	return string(out), err
}

func TestBuiltinTemplates(t *testing.T) {
	for _, name := range templates.Builtin() {
		t.Run(name, func(t *testing.T) {
			text, err := templates.BuiltinText(name)
			if err != nil {
				t.Fatal(err)
			}
			got, err := execute(t, text, nil)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "golden", name)
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := templates.Diff(path, string(want), got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestTemplateFunctions(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`{{ .Primary.Address }} {{ range .Replicas }}{{ .Name }} {{ end }}{{ .Term }}`, "a.example:5432 b c 2"},
		{`{{ key "plain" }}{{ keyOrDefault "none" "d" }}{{ keyOrDefault "empty" "e" }}{{ keyExists "none" }}{{ keyExists "plain" }}`, "vdefalsetrue"},
		{`{{ range ls "p" }}{{ .Key }}={{ .Value }};{{ end }}{{ range tree "p" }}{{ .Path }};{{ end }}`, "x=1;p/x;p/y/z;"},
		{`{{ range service "web" }}{{ .Address }}:{{ .Port }} {{ end }}`, "10.0.0.1:80 10.0.0.2:81 "},
		{`{{ range service "web|any" }}{{ .Port }} {{ end }}{{ range service "web" "any" }}{{ .Port }} {{ end }}`, "80 81 82 80 81 82 "},
		{`{{ range service "blue.web" }}{{ .Port }}{{ end }}`, "80"},
		{`{{ range service "web" }}{{ if .Tags | contains "blue" }}{{ .Port }}{{ end }}{{ end }}`, "80"},
		{`{{ range $tag, $list := service "web" | byTag }}{{ $tag }}:{{ len $list }} {{ end }}`, "blue:1 fast:1 green:1 "},
		{`{{ range services }}{{ .Name }} {{ .Tags | join "," }}{{ end }}`, "web blue"},
		{`{{ env "HOME" }}{{ envOrDefault "NONE" "x" }}`, "/rootx"},
		{`{{ "hello" | toUpper | base64Encode }}{{ "SEVMTE8=" | base64Decode }}`, "SEVMTE8=HELLO"},
		{`{{ with key "json" | parseJSON }}{{ index .a 1 }}{{ . | toJSON }}{{ end }}`, `2{"a":[1,2]}`},
		{`{{ key "evil" | toJSON }}`, `"x\n    server evil 6.6.6.6:1"`},
		{`{{ "a,b,c" | split "," | join "-" }}{{ " x " | trimSpace }}{{ "abc" | replaceAll "b" "B" }}`, "a-b-cxaBc"},
		{`{{ "foo7" | regexMatch "[0-9]" }}{{ "foo7" | regexReplaceAll "[0-9]" "X" }}`, "truefooX"},
		{`{{ add 1 2 }}{{ 5 | subtract 2 }}{{ 6 | divide 3 }}{{ 7 | modulo 4 }}{{ maximum 1 9 }}`, "33239"},
		{`{{ range loop 3 }}{{ . }}{{ end }}{{ range loop 2 4 }}{{ . }}{{ end }}`, "01223"},
		{`{{ define "x" }}<{{ . }}>{{ end }}{{ executeTemplate "x" "y" }}{{ template "x" "z" }}`, "<y><z>"},
		{`{{ timestamp "unix" }} {{ timestamp }}`, "1700000000 2023-11-14T22:13:20Z"},
		{`{{ sha256Hex "a" }}`, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},
		{`{{ key "evil" | multiline | indent 2 }}`, "  x\n      server evil 6.6.6.6:1"},
	} {
		got, err := execute(t, test.text, fakeCatalog{})
		if err != nil || got != test.want {
			t.Errorf("%s\n got %q, %v\nwant %q", test.text, got, err, test.want)
		}
	}
}

// Wherever a template prints a value, a line break in it is refused.
func TestTemplateRefusesLines(t *testing.T) {
	for _, text := range []string{
		`{{ key "evil" }}`,
		`{{ if true }}{{ key "evil" }}{{ end }}`,
		`{{ if false }}{{ else }}{{ key "evil" | toUpper }}{{ end }}`,
		`{{ with key "evil" }}{{ . }}{{ end }}`,
		`{{ range loop 1 }}{{ key "evil" }}{{ end }}`,
		`{{ define "x" }}{{ key "evil" }}{{ end }}{{ template "x" }}`,
		`{{ define "x" }}{{ key "evil" }}{{ end }}{{ executeTemplate "x" }}`,
		`{{ $v := key "evil" }}{{ $v }}`,
		`{{ key "evil" | split "," }}`,
		`{{ printf "%s" (key "evil") }}`,
	} {
		if got, err := execute(t, text, fakeCatalog{}); !errors.Is(err, templates.ErrUnsafe) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

func TestTemplateErrors(t *testing.T) {
	for _, test := range []struct {
		text string
		want error
	}{
		{`{{ key "none" }}`, templates.ErrNotFound},
		{`{{ wait "later" }}`, templates.ErrNotReady},
		{`{{ .NoSuchField }}`, nil},
		{`{{ (index .Members 9).Name }}`, nil},
		{`{{ divide 0 1 }}`, nil},
		{`{{ mustEnv "NONE" }}`, nil},
		{`{{ service "a|b" }}`, nil},
		{`{{ define "x" }}{{ range loop 1000000 }}{{ template "y" }}{{ end }}{{ end }}{{ define "y" }}` + strings.Repeat("0123456789", 10) + `{{ end }}{{ template "x" }}`, nil}, // too large
	} {
		if _, err := execute(t, test.text, fakeCatalog{}); err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%.60s: %v", test.text, err)
		}
	}
	if _, err := execute(t, `{{ key "plain" }}`, nil); !errors.Is(err, templates.ErrNotReady) {
		t.Errorf("without Consul: %v", err)
	}
	if _, err := execute(t, `{{ key "plain" }}`, fakeCatalog{err: templates.ErrNotReady}); !errors.Is(err, templates.ErrNotReady) {
		t.Errorf("before Consul's first answer: %v", err)
	}
	// consul-template reads, runs and writes whatever a template names, and had to be
	// mended twice for links that led further (0.42.0, 0.42.1).
	reaching := []string{`{{ file "/etc/passwd" }}`, `{{ plugin "id" }}`, `{{ "x" | writeToFile "/tmp/x" "" "" "0644" }}`}
	for _, text := range append(reaching, `{{ if }}`, `{{ nofunc }}`, `{{`, `{{ end }}`) {
		if _, err := templates.ParseTemplate("x", text, templates.Delimiters{}); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

// No built-in template prints what a registration in Consul says beyond a member's
// name and addresses, and a registration that is not of that form is left out.
func TestBuiltinTemplatesRefuseInjection(t *testing.T) {
	env := templates.Env{Getenv: func(name string) string {
		return map[string]string{"VIP": "10.0.0.100/24", "VIP_INTERFACE": "lo"}[name]
	}}
	const evil = "evil\n    server evil 6.6.6.6:1"
	name, address, api, meta := registered("b", "replica", "2"), registered("c", "replica", "2"), registered("d", "replica", "2"), registered("e", "replica", "2")
	name.Name, address.Postgres, api.API = evil, "6.6.6.6:1 "+evil, "6.6.6.6:1 "+evil
	meta.Tags, meta.Meta["zone"] = append(meta.Tags, evil), evil
	top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"),
		Registered: []templates.Registration{registered("a", "primary", "2"), name, address, api, meta}})
	if err == nil || top.Primary == nil {
		t.Fatalf("nobody was told of these registrations: %v", err)
	}
	for _, builtin := range templates.Builtin() {
		text, err := templates.BuiltinText(builtin)
		if err != nil {
			t.Fatal(err)
		}
		page, err := templates.NewPage(top, templates.Settings{HAProxy: templates.HAProxySettings{Socket: "/run/s"}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := parse(t, text).Render(t.Context(), page, env)
		if err != nil {
			t.Errorf("%s: %v", builtin, err)
		}
		if strings.Contains(string(got), "evil") || strings.Contains(string(got), "6.6.6.6") {
			t.Errorf("%s:\n%s", builtin, got)
		}
		// What came past that check is still no line of its own.
		past := top
		past.Cluster = evil
		past.Members = slices.Clone(top.Members)
		for i := range past.Members {
			past.Members[i].Name, past.Members[i].Host = evil, evil
		}
		past.Primary, past.Replicas = &past.Members[0], past.Members[1:]
		page.Topology = past
		if got, err := parse(t, text).Render(t.Context(), page, env); err == nil && strings.Contains(string(got), "\n    server evil") {
			t.Errorf("%s, past the check:\n%s", builtin, got)
		}
	}
}

func TestSettingsRefuseInjection(t *testing.T) {
	for _, s := range []templates.HAProxySettings{
		{Socket: "/a b"}, {Bind: "x\ny"}, {Socket: "/a", StateFile: "/x#y"}, {Global: []string{"a\nb"}}, {PrimaryBackend: "x y"},
	} {
		if _, err := templates.NewPage(templates.Topology{Service: "pg"}, templates.Settings{HAProxy: s}); !errors.Is(err, templates.ErrUnsafe) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if _, err := templates.NewPage(templates.Topology{Service: "pg"}, templates.Settings{PgBouncer: templates.PgBouncerSettings{Database: "a\nb"}}); !errors.Is(err, templates.ErrUnsafe) {
		t.Error(err)
	}
}

// TestConnectTimeout: HAProxy's connection attempts outlast the way to the farthest member,
// unless the configuration says otherwise, and a client that is refused is held for 10 s.
func TestConnectTimeout(t *testing.T) {
	for _, c := range []struct{ roundTrip, said, want time.Duration }{
		{0, 0, 50 * time.Millisecond}, {25 * time.Millisecond, 0, 50 * time.Millisecond}, {50 * time.Millisecond, 0, 100 * time.Millisecond},
		{500 * time.Millisecond, 0, time.Second}, {100 * time.Millisecond, 70 * time.Millisecond, 70 * time.Millisecond},
	} {
		settings, err := templates.HAProxySettings{Socket: "/run/s", ConnectTimeout: c.said}.Complete("pg")
		if err != nil {
			t.Fatal(err)
		}
		page, err := templates.NewPage(templates.Topology{Service: "pg", RoundTrip: c.roundTrip}, templates.Settings{HAProxy: settings})
		if err != nil {
			t.Fatal(err)
		}
		h := page.HAProxy
		if held := time.Duration(h.Retries) * min(h.ConnectTimeout, time.Second); h.ConnectTimeout != c.want || held < 9*time.Second || held > 10*time.Second {
			t.Errorf("%+v: %s, and clients are held for %s", c, h.ConnectTimeout, held)
		}
	}
}

func TestDiff(t *testing.T) {
	var a, b []string
	for i := range 30 {
		a = append(a, fmt.Sprintf("line %d\n", i))
	}
	b = append(b, a[:5]...)
	b = append(b, "new\n")
	b = append(b, a[5:20]...)
	b = append(b, a[21:]...)
	want := "--- f\n+++ f\n@@ -3,6 +3,7 @@\n line 2\n line 3\n line 4\n+new\n line 5\n line 6\n line 7\n" +
		"@@ -18,7 +19,6 @@\n line 17\n line 18\n line 19\n-line 20\n line 21\n line 22\n line 23\n"
	if got := templates.Diff("f", strings.Join(a, ""), strings.Join(b, "")); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := templates.Diff("f", "", "a"); got != "--- f\n+++ f\n@@ -0,0 +1,1 @@\n+a\n\\ No newline at end of file\n" {
		t.Errorf("got\n%s", got)
	}
	if got := templates.Diff("f", "same", "same"); got != "" {
		t.Error(got)
	}
}

// What is no address of a DNS server comes into no file.
func TestHAProxyResolversRefused(t *testing.T) {
	for _, bad := range []string{
		"", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "dns.example:53", "127.0.0.1:53 x", "127.0.0.1:53\n    server evil 6.6.6.6:1",
		"fe80::1%eth0:53", "[fe80::1%eth0]:53", "[fe80::1%\n]:53", ":53", "udp@127.0.0.1:53",
	} {
		s := templates.HAProxySettings{Socket: "/run/haproxy/admin.sock", Resolvers: []string{"127.0.0.1:53", bad}}
		if _, err := s.Complete("pg"); !errors.Is(err, templates.ErrUnsafe) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	s := templates.HAProxySettings{Socket: "/run/haproxy/admin.sock", Resolvers: []string{"10.0.0.1:8600", "[2001:db8::1]:53"}}
	if _, err := s.Complete("pg"); err != nil {
		t.Error(err)
	}
}

// The file with resolvers differs from the one without in nothing but that.
func TestHAProxyResolversGolden(t *testing.T) {
	text, err := templates.BuiltinText("haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	page := testPage(t)
	page.HAProxy.Resolvers = []string{"127.0.0.1:8600", "[2001:db8::1]:53"}
	got, err := parse(t, text).Render(t.Context(), page, templates.Env{})
	if err != nil {
		t.Fatal(err)
	}
	without := filepath.Join("testdata", "golden", "haproxy.cfg")
	diff := templates.Diff("haproxy.cfg", read(t, without), string(got))
	path := filepath.Join("testdata", "golden", "resolvers.diff")
	if *update {
		if err := os.WriteFile(path, []byte(diff), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := read(t, path); diff != want {
		t.Errorf("got\n%s\nwant\n%s", diff, want)
	}
}
