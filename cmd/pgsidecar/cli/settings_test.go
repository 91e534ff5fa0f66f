package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/member"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// settingsMember is the API of the one member n1, with settings.
type settingsMember struct {
	*httptest.Server
	mu      sync.Mutex
	stored  string
	patches []string
	// next replaces the settings when they have been read; empty: nobody else
	// changes them.
	next string
}

func newSettingsMember(t *testing.T, stored string) *settingsMember {
	t.Helper()
	m := &settingsMember{stored: stored}
	m.Server = httptest.NewServer(http.HandlerFunc(m.serve))
	t.Cleanup(m.Close)
	t.Setenv("PGSIDECAR_API", m.URL)
	t.Setenv("PGSIDECAR_TOKEN", fakeToken)
	return m
}

func (m *settingsMember) serve(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch r.Method + " " + r.URL.Path {
	case "GET /status":
		_ = json.NewEncoder(w).Encode(api.Status{Cluster: "pg", Member: "n1", Leader: "n1",
			Members: []api.MemberStatus{{Member: "n1", API: strings.TrimPrefix(m.URL, "http://")}}})
	case "GET /config":
		_, _ = io.WriteString(w, m.stored)
		if m.next != "" {
			m.stored = m.next
		}
	case "PATCH /config":
		patch, _ := io.ReadAll(r.Body)
		next, err := settings.Merge([]byte(m.stored), patch)
		if err != nil || r.Header.Get("Authorization") != "Bearer "+fakeToken {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		m.patches = append(m.patches, string(patch))
		m.stored = string(next)
		_, _ = w.Write(next)
	default:
		http.NotFound(w, r)
	}
}

// typed runs a command line with what a person types.
func typed(t *testing.T, answers string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(answers), &out, &errs)
	return code, out.String(), errs.String()
}

const someSettings = `{"durability":{"standbys":1,"mode":"quorum"},"failover":{"automatic":true}}`

// TestConfigSet: only the difference is stored, and only after it was seen and
// agreed to.
func TestConfigSet(t *testing.T) {
	for _, c := range []struct {
		name, line, answers, patch, shown string
	}{
		{"one", "config set durability.standbys=2", "yes\n", `{"durability":{"standbys":2}}`,
			"-     \"standbys\": 1\n+     \"standbys\": 2\n"},
		{"several of each kind", "config set failover.failure_timeout=3s durability.strict=false parameters.auto_explain.log_min_duration=1s -yes", "",
			`{"durability":{"strict":false},"failover":{"failure_timeout":"3s"},"parameters":{"auto_explain.log_min_duration":"1s"}}`, ""},
		{"a parameter's number is text", "config set parameters.max_connections=300 -yes", "", `{"parameters":{"max_connections":"300"}}`, ""},
		{"a member's tags", "config set tags.n3.example.com.nofailover=true tags.n2.priority=7 slots.backup.type=physical -yes", "",
			`{"slots":{"backup":{"type":"physical"}},"tags":{"n2":{"priority":7},"n3.example.com":{"nofailover":true}}}`, ""},
		{"removed", "config set failover.automatic=", "yes\n", `{"failover":{"automatic":null}}`, "-     \"automatic\": true\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newSettingsMember(t, someSettings)
			code, stdout, stderr := typed(t, c.answers, strings.Fields(c.line)...)
			if code != ExitOK || stdout != "stored; the members take it over by themselves\n" || !strings.Contains(stderr, c.shown) {
				t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if got := strings.Join(m.patches, "\n"); got != c.patch {
				t.Errorf("the patch is %s", got)
			}
		})
	}
}

// TestConfigSetRefused: what is wrong is said with what to type instead, and
// nothing is stored.
func TestConfigSetRefused(t *testing.T) {
	for _, c := range []struct {
		name, line, answers string
		code                int
		want                string
	}{
		{"no setting", "config set", "", 2, "which setting?"},
		{"no value", "config set durability.standbys", "", 2, "expected KEY=VALUE"},
		{"no such setting", "config set durability.stanbys=2", "", 2, "durability.standbys=NUMBER"},
		{"a group", "config set durability=2", "", 2, "there is no setting"},
		{"a parameter without name", "config set parameters.=2", "", 2, "there is no setting"},
		{"a pause", "config set paused.until=x", "", 2, "type pgsidecar pause"},
		{"no number", "config set durability.standbys=two", "", 2, "expected a whole number"},
		{"no truth", "config set failover.automatic=perhaps", "", 2, "expected true or false"},
		{"a wrong value", "config set durability.mode=best -yes", "", 1, "it is quorum or async"},
		{"no", "config set durability.standbys=2", "no\n", 1, "nothing was done"},
		{"nobody there to ask", "config set durability.standbys=2", "", 1, "--yes skips this question"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newSettingsMember(t, someSettings)
			code, stdout, stderr := typed(t, c.answers, strings.Fields(c.line)...)
			if code != c.code || stdout != "" || !strings.Contains(stderr, c.want) {
				t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if len(m.patches) != 0 {
				t.Errorf("stored: %s", m.patches)
			}
		})
	}
	newSettingsMember(t, someSettings)
	if code, stdout, _ := typed(t, "", "config", "set", "durability.standbys=1"); code != ExitOK || !strings.Contains(stdout, "nothing to change") {
		t.Errorf("as it is: exit status %d, %q", code, stdout)
	}
}

// TestConfigConflict: what somebody else has changed meanwhile is told, and
// kept.
func TestConfigConflict(t *testing.T) {
	m := newSettingsMember(t, someSettings)
	m.next = `{"durability":{"standbys":3,"mode":"quorum"},"failover":{"automatic":true}}`
	code, stdout, stderr := typed(t, "yes\n", "config", "set", "durability.standbys=2")
	if code != ExitFailed || stdout != "" || !strings.Contains(stderr, "somebody else changed the settings meanwhile") ||
		!strings.Contains(stderr, "+     \"standbys\": 3\n") || !strings.Contains(stderr, "Run the command again") {
		t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if len(m.patches) != 0 || m.stored != m.next {
		t.Errorf("stored: %s", m.patches)
	}
}

// TestConfigEdit runs real editors: programs that change the file they get.
func TestConfigEdit(t *testing.T) {
	for _, c := range []struct {
		name, editor, answers string
		code                  int
		patch                 string
		want                  string // part of stdout or stderr
		kept                  bool   // the text is kept, and its place named
	}{
		{"a change", `sed -i 's/"standbys": 1/"standbys": 2/'`, "yes\n", 0, `{"durability":{"standbys":2}}`, "stored", false},
		{"a line removed", `sed -i '/automatic/d'`, "yes\n", 0, `{"failover":{"automatic":null}}`, "stored", false},
		{"nothing", "true", "", 0, "", "nothing to change", false},
		{"emptied", "truncate -s 0", "", 0, "", "nothing to change", false},
		{"no", `sed -i 's/"standbys": 1/"standbys": 2/'`, "no\n", 1, "", "nothing was done", true},
		{"a fault that is left", `sed -i 's/"quorum"/"best"/'`, "", 1, "", "it is quorum or async", true},
		{"no JSON", `sed -i 's/^{//'`, "", 1, "", "expected a JSON object", true},
		{"an unknown key", `sed -i s/standbys/standbyes/`, "", 1, "", "standbyes", true},
		{"no editor", "no-such-editor", "", 1, "", "name another one in EDITOR", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newSettingsMember(t, someSettings)
			t.Setenv("VISUAL", "")
			t.Setenv("EDITOR", c.editor)
			t.Setenv("TMPDIR", t.TempDir())
			code, stdout, stderr := typed(t, c.answers, "config", "edit")
			if code != c.code || !strings.Contains(stdout+stderr, c.want) {
				t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if got := strings.Join(m.patches, "\n"); got != c.patch {
				t.Errorf("the patch is %s", got)
			}
			files, _ := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*"))
			if c.kept != (len(files) == 1) || c.kept && !strings.Contains(stderr, "Your text is kept in "+files[0]) {
				t.Errorf("kept %q, said %q", files, stderr)
			}
		})
	}
}

// TestConfigEditAgain: wrong text comes back with what is wrong on top.
func TestConfigEditAgain(t *testing.T) {
	m := newSettingsMember(t, someSettings)
	// The first time it writes a fault, the second time it mends it.
	t.Setenv("VISUAL", `f() { if grep -q 'WRONG: wrong settings: durability.mode "best"' "$1"; then sed -i s/best/async/ "$1"; else sed -i s/quorum/best/ "$1"; fi; }; f`)
	code, _, stderr := typed(t, "", "config", "edit", "-yes")
	if code != ExitOK || strings.Join(m.patches, "") != `{"durability":{"mode":"async"}}` {
		t.Errorf("exit status %d, stderr %q, patches %q", code, stderr, m.patches)
	}
}

// TestConfigShowCluster prints what all members have, beside what one has.
func TestConfigShowCluster(t *testing.T) {
	newSettingsMember(t, `{"failover":{"automatic":true},"durability":{"standbys":1}}`)
	code, stdout, stderr := typed(t, "", "config", "show", "-cluster")
	if want := settings.Pretty([]byte(someSettings)); code != ExitOK || stderr != "" ||
		stdout != strings.Replace(string(want), "\n    \"mode\": \"quorum\",", "", 1) {
		t.Errorf("exit status %d, stderr %q, stdout\n%s", code, stderr, stdout)
	}
}

// TestSettingKeys: each key that is offered is one that Settings has, and the
// kinds are right.
func TestSettingKeys(t *testing.T) {
	names := strings.Join(settings.Names(), "\n")
	for _, want := range []string{"durability.standbys=NUMBER", "durability.strict=true|false", "failover.failure_timeout=TEXT", "parameters.NAME=TEXT", "tags.NAME.nosync=true|false"} {
		if !strings.Contains(names, want) {
			t.Errorf("no %s in\n%s", want, names)
		}
	}
	for _, name := range settings.Names() {
		key, kind, _ := strings.Cut(name, "=")
		value := map[string]string{"NUMBER": "1", "true|false": "true", "TEXT": "2s", "JSON": "[]"}[kind]
		if key == "slots.NAME.type" {
			key, value = "slots.backup.type", "physical"
		}
		if key == "tags.NAME.TAG" {
			key = "tags.n1.zone"
		}
		if own := map[string]string{"failover.max_lag": "16MB", "service.replica_max_lag": "64MB", "objective.availability": "99.9", "objective.rpo": "0", "runbook": "https://wiki.example/pg",
			"standby_of.addresses": `["10.1.0.1:5432"]`, "standby_of.apis": `["10.1.0.1:8008"]`, "standby_of.datacenter": "dc1",
			"standby_of.service": "pg", "standby_of.alone": "closed", "standby_of.witness": "dc3"}[key]; own != "" {
			value = own
		}
		words := []string{key + "=" + value}
		if key == "standby_of.apis" || key == "standby_of.datacenter" || key == "standby_of.alone" || key == "standby_of.witness" {
			words = append(words, "standby_of.service=pg") // none of them stands alone
		}
		patch, err := settings.ParseWords(words)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := settings.Parse(patch); err != nil && !regexp.MustCompile(`durability.mode`).MatchString(err.Error()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestChangedKeys: what a change of the settings looks like in the history.
func TestChangedKeys(t *testing.T) {
	before := `{"durability":{"standbys":1},"failover":{"automatic":true},"hba":["a"]}`
	after := `{"durability":{"standbys":2},"hba":["a"],"parameters":{"work_mem":"8MB"},"paused":{}}`
	want := `- durability.standbys = 1
+ durability.standbys = 2
- failover.automatic = true
+ parameters.work_mem = "8MB"
+ paused = {}`
	if got := settings.ChangedKeys([]byte(before), []byte(after)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := settings.ChangedKeys(nil, []byte(`{"version":1}`)); got != "+ version = 1" {
		t.Errorf("got %q", got)
	}
}

// TestCheckSettings: what must not be stored is refused with its reason.
func TestCheckSettings(t *testing.T) {
	for text, want := range map[string]string{
		`{"parameters":{"fsync":"off"}}`:                                       "fsync",
		`{"parameters":{"work_mem":"1\n2"}}`:                                   "line break",
		`{"hba":["host all all 10.0.0.1 md5"]}`:                                "expected a mask",
		`{"hba":["host all all 10.0.0.0/99 md5"]}`:                             "10.0.0.0/99",
		`{"hba":["host all all 0.0.0.0/0 ldap ldapbindpasswd=secret"]}`:        "a password in it",
		`{"ident":["people alice"]}`:                                           "expected a map",
		`{"slots":{"pgsidecar_n9":{"type":"physical"}}}`:                       "the members' own",
		`{"slots":{"cdc":{"type":"logical"}}}`:                                 "failover_slots",
		`{"slots":{"Upper":{"type":"physical"}}}`:                              "lower-case",
		`{"failover_slots":true}`:                                              "PostgreSQL 17",
		`{"hba":["host all all 10.0.0.0 255.0.0.0 md5","local all all peer"]}`: "",
		`{"slots":{"backup":{"type":"physical"}},"ident":["m alice app"]}`:     "",
		`{"tags":{"n1":{"nofailover":true,"priority":3}}}`:                     "",
		`{"tags":{"n1":{"nofailovr":true}}}`:                                   "nofailovr",
		`{"tags":{"n1":{"replicatefrom":"n1"}}}`:                               "cannot follow itself",
	} {
		_, err := member.CheckSettings([]byte(text), 150000)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil && strings.Contains(err.Error(), "=secret") && !strings.Contains(text, "10.0.0.0 255") {
			t.Errorf("the error has the secret: %v", err)
		}
	}
}

// TestOwnWords: what Patroni's clients send is understood, or refused with our
// name for it.
func TestOwnWords(t *testing.T) {
	for text, want := range map[string]string{
		// Whatever was paused before, all are now, without an end.
		`{"pause":true}`: `{"paused":{"members":null,"reason":null,"until":null}}`,
		`{"pause":null}`: `{"paused":null}`,
		`{"postgresql":{"parameters":{"work_mem":"8MB","log_connections":true,"max_connections":50,"x":null},"pg_hba":["a"]}}`: `{"hba":["a"],` +
			`"parameters":{"log_connections":"on","max_connections":"50","work_mem":"8MB","x":null}}`,
		`{"durability":{"standbys":2}}`: `{"durability":{"standbys":2}}`,
		`{"synchronous_mode":"quorum","synchronous_mode_strict":true,"synchronous_node_count":2}`:           `{"durability":{"mode":"quorum","standbys":2,"strict":true}}`,
		`{"synchronous_mode":true,"durability":{"standbys":1}}`:                                             `{"durability":{"mode":"quorum","standbys":1}}`,
		`{"synchronous_mode":"off","maximum_lag_on_failover":1048576}`:                                      `{"durability":{"mode":"async"},"failover":{"max_lag":"1048576B"}}`,
		`{"synchronous_mode":null,"maximum_lag_on_failover":null}`:                                          `{"durability":{"mode":null},"failover":{"max_lag":null}}`,
		`{"maximum_lag_on_failover":"16MB"}`:                                                                `{"failover":{"max_lag":"16MB"}}`,
		`{"ttl":null,"loop_wait":null,"master_start_timeout":null,"postgresql":{"recovery_conf":null}}`:     `{}`,
		`{"failsafe_mode":true,"check_timeline":true,"postgresql":{"use_pg_rewind":true,"use_slots":true}}`: `{}`,
		`{"slots":{"a":0,"b":{},"c":null,"d":{"type":"physical"}}}`:                                         `{"slots":{"a":{"type":"physical"},"b":{"type":"physical"},"c":null,"d":{"type":"physical"}}}`,
		`{"postgresql":{"parameters":{"hot_standby":"on","wal_log_hints":true,"work_mem":"8MB"}}}`:          `{"parameters":{"work_mem":"8MB"}}`,
	} {
		if got, err := settings.FromPatroni([]byte(text)); err != nil || string(got) != want {
			t.Errorf("%s became %s, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{`{"ttl":20}`: "failover.lease", `{"postgresql":{"use_slots":false}}`: "always have slots", `[]`: "object",
		`{"failsafe_mode":false}`: "always confirm", `{"maximum_lag_on_failover":0}`: "durability.mode=quorum", `{"synchronous_mode":"maybe"}`: "expected on, quorum or off",
		`{"synchronous_mode":true,"durability":{"mode":"async"}}`: "by Patroni's name too", `{"postgresql":{"colour":1}}`: "not known here", `{"maximum_lag_on_syncnode":1}`: "slow one",
		`{"ttl":30,"postgresql":{"parameters":{"max_connections":101}}}`: "ttl"} {
		if _, err := settings.FromPatroni([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzSettings: no patch of the settings makes a panic, or becomes something that
// cannot be read again.
func FuzzSettings(f *testing.F) {
	f.Add(`{"durability":{"standbys":1}}`, `{"durability":{"standbys":null},"parameters":{"work_mem":"8MB"}}`)
	f.Add(`{}`, `{"pause":true,"postgresql":{"parameters":{"a":1,"b":true},"pg_hba":["host all all 10.0.0.0/8 md5"]}}`)
	f.Add(``, `{"hba":["local all all peer"],"ident":["a b c"],"slots":{"x":{"type":"physical"}}}`)
	f.Add(`{"slots":{"x":null}}`, `{"slots":{"x":{"type":"logical"}},"failover_slots":true,"paused":{"until":"2100-01-01T00:00:00Z"}}`)
	f.Fuzz(func(t *testing.T, stored, patch string) {
		own, err := settings.FromPatroni([]byte(patch))
		if err != nil {
			return
		}
		next, err := settings.Merge([]byte(stored), own)
		if err != nil {
			return
		}
		if _, err := settings.Object(next); err != nil {
			t.Fatalf("%q and %q became %q: %v", stored, patch, next, err)
		}
		_ = settings.ChangedKeys([]byte(stored), next)
		if set, err := member.CheckSettings(next, 150000); err == nil {
			for _, line := range set.HBA {
				if strings.ContainsAny(line, "\n\r") {
					t.Fatalf("a line break got through: %q", line)
				}
			}
		}
	})
}
