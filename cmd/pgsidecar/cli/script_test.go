package cli

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// TestMain lets scripts run this program: pgsidecar in a script is a process of its
// own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"pgsidecar": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/script: what a person types, and what is answered. Besides
// testscript's own commands there are
//
//	api DIR      start a member's API; it answers with DIR/status.json, settings.json and
//	             changes.json, appends each change that is requested to the file asked,
//	             and is named by $PGSIDECAR_API
//	everybad DIR validate each configuration in DIR that has faults, by its .want
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			return os.CopyFS(filepath.Join(env.WorkDir, "testdata"), os.DirFS("../../../sidecar/config/testdata"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"api": startAPI, "everybad": everyBad},
	})
}

// scriptAPI is the API of one member, made of files.
type scriptAPI struct {
	mu    sync.Mutex
	dir   string
	asked string // the file of what it was asked for
}

func startAPI(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("api takes one folder")
	}
	m := &scriptAPI{dir: ts.MkAbs(args[0]), asked: ts.MkAbs("asked")}
	ts.Check(os.WriteFile(m.asked, nil, 0o600))
	s := httptest.NewServer(m)
	ts.Defer(s.Close)
	ts.Setenv("PGSIDECAR_API", s.URL)
}

func (m *scriptAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	file := map[string]string{"/status": "status.json", "/config": "settings.json", "/changes": "changes.json", "/availability": "availability.json"}[r.URL.Path]
	if r.Method == http.MethodGet {
		text, err := os.ReadFile(filepath.Join(m.dir, file))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, strings.ReplaceAll(string(text), "ADDRESS", r.Host))
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+fakeToken {
		http.Error(w, "not authenticated", http.StatusUnauthorized)
		return
	}
	body, _ := io.ReadAll(r.Body)
	log, err := os.OpenFile(m.asked, os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = io.WriteString(log, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+string(body))+"\n")
		err = firstError(err, log.Close())
	}
	if err == nil && r.URL.Path == "/config" {
		err = m.patch(w, body)
	} else if err == nil {
		_, err = io.WriteString(w, "done")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// patch stores a change of the settings.
func (m *scriptAPI) patch(w io.Writer, body []byte) error {
	name := filepath.Join(m.dir, "settings.json")
	old, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	next, err := settings.Merge(old, body)
	if err != nil {
		return err
	}
	_, err = w.Write(next)
	return firstError(err, os.WriteFile(name, next, 0o600))
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// everyBad validates all faulty configurations of package config's tests. Each is
// refused with the text beside it.
func everyBad(ts *testscript.TestScript, _ bool, args []string) {
	files, err := filepath.Glob(ts.MkAbs(filepath.Join(args[0], "*.hcl")))
	ts.Check(err)
	tried := 0
	for _, file := range files {
		name := filepath.Join(args[0], filepath.Base(file))
		want := ts.ReadFile(strings.TrimSuffix(name, ".hcl") + ".want")
		err := ts.Exec("pgsidecar", "config", "validate", "--elsewhere", "--config", name)
		got := strings.ReplaceAll(ts.ReadFile("stderr"), `unable to parse template "{{ Bogus }}": template: sockaddr.Parse:1: `, "")
		if want == "" {
			continue // it is good, on a machine with what it names
		}
		tried++
		if !hasLines(got, want) || err == nil || ts.ReadFile("stdout") != "" {
			ts.Fatalf("%s: %v, stdout %q, stderr\n%s\nwant\n%s", name, err, ts.ReadFile("stdout"), got, want)
		}
	}
	if tried < 20 {
		ts.Fatalf("only %d faulty configurations in %s", tried, args[0])
	}
}

// hasLines reports whether a text has all of these lines, in their order. The command
// also says which files are not on this machine, which the .want files know nothing of.
func hasLines(text, want string) bool {
	for line := range strings.Lines(want) {
		_, after, found := strings.Cut("\n"+text, "\n"+line)
		if !found {
			return false
		}
		text = after
	}
	return true
}

// TestScriptStatus holds the statuses in scripts to the type that members answer with.
func TestScriptStatus(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) < 5 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		_, status, found := strings.Cut(string(text), "-- api/status.json --\n")
		if !found {
			continue
		}
		status, _, _ = strings.Cut(status, "\n-- ")
		decoder := json.NewDecoder(strings.NewReader(status))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(new(api.Status)); err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
}
