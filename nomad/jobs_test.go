package nomad_test

import (
	"bytes"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/pgsidecar/pgsidecar/nomad"
)

var update = flag.Bool("update", false, "write jobs/*.nomad.hcl and pack/ anew")

// TestJobs holds jobs/, which is there to be read and run, to what the program
// prints.
func TestJobs(t *testing.T) {
	var want []string
	for _, j := range nomad.Jobs() {
		text, err := nomad.Job(j.Name, nil)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("jobs", j.Name+".nomad.hcl")
		want = append(want, path)
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, []byte(text)) {
			t.Errorf("%s is not what is printed; go test ./nomad -update writes it", path)
		}
		if j.About == "" || strings.Contains(text, "<no value>") || strings.Contains(text, "<%") {
			t.Errorf("%s: not a job file", j.Name)
		}
	}
	have, err := filepath.Glob("jobs/*")
	if err != nil || len(have) != len(want) {
		t.Errorf("jobs/ has %q, %v; want %q", have, err, want)
	}
}

// TestVariables sets each variable of each job, and finds it set: so no
// variable's block is written in a way that Job does not know.
func TestVariables(t *testing.T) {
	for _, j := range nomad.Jobs() {
		text, err := nomad.Job(j.Name, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, kind := range variables(t, j.Name, text) {
			value := map[string]string{"string": `a"${b}`, "number": "17", "bool": "true", "list(string)": `x,"y`, "map(string)": `{ a = "b" }`}[kind]
			set, err := nomad.Job(j.Name, []string{name + "=" + value})
			if err != nil {
				t.Errorf("%s: %v", j.Name, err)
				continue
			}
			want := map[string]string{"string": `"a\"$${b}"`, "list(string)": `["x", "\"y"]`}[kind]
			if want == "" {
				want = value
			}
			if !strings.Contains(set, "default     = "+want) && !strings.Contains(set, "default = "+want) {
				t.Errorf("%s: %s is not %s", j.Name, name, want)
			}
			variables(t, j.Name, set)
		}
	}
	for name, vars := range map[string][]string{"no such variable": {"cout=3"}, "no number": {"count=x"}, "no value": {"count"},
		"no bool": {"one_machine=1"}, "no map": {"parameters=a"}} {
		if _, err := nomad.Job("exec", vars); !errors.Is(err, nomad.ErrVariable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := nomad.Job("dokcer", nil); !errors.Is(err, nomad.ErrNoJob) {
		t.Errorf("got %v", err)
	}
}

// variables parses a job and returns its variables with their types.
func variables(t *testing.T, name, text string) map[string]string {
	t.Helper()
	file, diags := hclsyntax.ParseConfig([]byte(text), name, hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatalf("%s: %v", name, diags)
	}
	all := map[string]string{}
	for _, b := range file.Body.(*hclsyntax.Body).Blocks {
		if b.Type == "variable" {
			kind := b.Body.Attributes["type"].Expr.Range()
			all[b.Labels[0]] = text[kind.Start.Byte:kind.End.Byte]
		}
	}
	if len(all) < 5 {
		t.Errorf("%s: only %d variables", name, len(all))
	}
	return all
}

// The faults that are found in others' jobs for PostgreSQL on Nomad, one line each; the
// tests on a real Nomad show what comes of them.
func TestJobsOfMembers(t *testing.T) {
	for _, name := range []string{"docker", "exec", "raw_exec"} {
		text, err := nomad.Job(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		file, diags := hclsyntax.ParseConfig([]byte(text), name, hcl.InitialPos)
		if diags.HasErrors() {
			t.Fatalf("%s: %v", name, diags)
		}
		settings := settingsIn(text, "", file.Body.(*hclsyntax.Body))
		for setting, want := range map[string]string{
			"job.group.update.max_parallel":               "1",
			"job.group.update.canary":                     "0", // there is no data directory for one more
			"job.group.update.auto_revert":                "false",
			"job.group.update.auto_promote":               "",
			"job.group.migrate.max_parallel":              "1",
			"job.group.disconnect.replace":                "false", // else a second member is made, with no data
			"job.group.disconnect.reconcile":              `"keep_original"`,
			"job.group.reschedule.attempts":               "0",
			"job.group.reschedule.unlimited":              "false",
			"job.group.ephemeral_disk.sticky":             "",
			"job.group.shutdown_delay":                    "", // clients lose the name, and the handover has not begun
			"job.group.task.shutdown_delay":               "",
			"job.group.task.kill_signal":                  `"SIGTERM"`,
			"job.group.task.kill_timeout":                 "var.kill_timeout", // Nomad's default of 5 s is no time for a handover
			"job.group.constraint.content.operator":       `"distinct_hosts"`,
			"job.group.volume.source":                     "var.volume",
			"job.group.service.check.check_restart.limit": "",
			"job.group.task.env.CONSUL_HTTP_TOKEN":        "",
			"job.group.task.service.check.interval":       "", // Nomad would announce before there is a role
			"job.group.task.template.content.change_mode": `"noop"`,
			"variable.kill_timeout.default":               `"30s"`,
		} {
			if have := settings[setting]; have != want {
				t.Errorf("%s: %s is %q, want %q", name, setting, have, want)
			}
		}
	}
}

// settingsIn are the attributes of a body and of all blocks in it, by their path.
func settingsIn(text, path string, body *hclsyntax.Body) map[string]string {
	all := map[string]string{}
	for name, a := range body.Attributes {
		r := a.Expr.Range()
		all[path+name] = text[r.Start.Byte:r.End.Byte]
	}
	for _, b := range body.Blocks {
		name := b.Type
		if name == "dynamic" || name == "variable" {
			name = b.Labels[0]
		}
		if b.Type == "variable" {
			name = "variable." + name
		}
		maps.Copy(all, settingsIn(text, path+name+".", b.Body))
	}
	return all
}
