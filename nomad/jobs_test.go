package nomad_test

import (
	"bytes"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/pgsidecar/pgsidecar/nomad"
)

var update = flag.Bool("update", false, "write jobs/*.nomad.hcl and pack/ anew")

// form is a job file as it is printed for one release of Nomad.
type form struct {
	job     nomad.JobFile
	release nomad.Release
	path    string // below this folder
}

// forms are all job files, for each release.
func forms() []form {
	var all []form
	for _, j := range nomad.Jobs() {
		for _, release := range nomad.Releases {
			all = append(all, form{j, release, jobPath(j.Name, release)})
		}
	}
	return all
}

// jobPath is where the job file for a release is.
func jobPath(name string, release nomad.Release) string {
	if release == nomad.Release18 {
		return filepath.Join("jobs", name+".nomad.hcl")
	}
	return filepath.Join("jobs", string(release), name+".nomad.hcl")
}

// TestJobs holds jobs/, which is there to be read and run, to what the program
// prints.
func TestJobs(t *testing.T) {
	var want []string
	for _, form := range forms() {
		j, path := form.job, form.path
		text, err := nomad.Job(j.Name, form.release, nil)
		if err != nil {
			t.Fatal(err)
		}
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
	have, err := filepath.Glob("jobs/*.hcl")
	older, err2 := filepath.Glob("jobs/1.6/*")
	have = append(have, older...)
	if err = errors.Join(err, err2); err != nil || len(have) != len(want) {
		t.Errorf("jobs/ has %q, %v; want %q", have, err, want)
	}
}

// TestVariables sets each variable of each job, and finds it set: so no
// variable's block is written in a way that Job does not know.
func TestVariables(t *testing.T) {
	for _, form := range forms() {
		j := form.job
		text, err := nomad.Job(j.Name, form.release, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, kind := range variables(t, j.Name, text) {
			value := map[string]string{"string": `a"${b}`, "number": "17", "bool": "true", "list(string)": `x,"y`, "map(string)": `{ a = "b" }`}[kind]
			set, err := nomad.Job(j.Name, form.release, []string{name + "=" + value})
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
		if _, err := nomad.Job("exec", nomad.Release18, vars); !errors.Is(err, nomad.ErrVariable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := nomad.Job("dokcer", nomad.Release18, nil); !errors.Is(err, nomad.ErrNoJob) {
		t.Errorf("got %v", err)
	}
	for _, release := range []nomad.Release{"", "1.7", "1.8.0", "1.11", "v1.6"} {
		if text, err := nomad.Job("exec", release, nil); !errors.Is(err, nomad.ErrRelease) || text != "" {
			t.Errorf("release %q: got %v", release, err)
		}
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
	same := map[string]string{
		"job.group.update.max_parallel":               "1",
		"job.group.update.canary":                     "0", // there is no data directory for one more
		"job.group.update.auto_revert":                "false",
		"job.group.update.auto_promote":               "",
		"job.group.migrate.max_parallel":              "1",
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
		"job.group.stop_after_client_disconnect":      "", // the member would be stopped when its client is back
		"variable.kill_timeout.default":               `"30s"`,
	}
	differs := map[nomad.Release]map[string]string{
		nomad.Release16: {
			"job.group.max_client_disconnect":    `"24h"`,
			"job.group.disconnect.replace":       "",
			"job.group.restart.render_templates": "",
			"variable.consul_acl.default":        "false",
		},
		nomad.Release18: {
			"job.group.max_client_disconnect":    "",
			"job.group.disconnect.replace":       "false", // else a second member is made, with no data
			"job.group.disconnect.reconcile":     `"keep_original"`,
			"job.group.restart.render_templates": "false",
			"variable.consul_acl.default":        "",
		},
	}
	for _, form := range forms() {
		if !slices.Contains(drivers, form.job.Name) {
			continue
		}
		settings := settingsOf(t, form)
		for _, all := range []map[string]string{same, differs[form.release]} {
			for setting, want := range all {
				if have := settings[setting]; have != want {
					t.Errorf("%s: %s is %q, want %q", form.path, setting, have, want)
				}
			}
		}
	}
}

// newer is what a Nomad older than 1.8 refuses or does not know in a job file, and
// what one of 1.8 or later has replaced.
var newer, replaced = []string{"disconnect", "render_templates", "consul"}, []string{"max_client_disconnect", "stop_after_client_disconnect"}

// TestReleases: no job file has what its release does not know, and each one of the
// newer form has the block consul in the tasks that ask Consul.
func TestReleases(t *testing.T) {
	for _, form := range forms() {
		unknown := map[nomad.Release][]string{nomad.Release16: newer, nomad.Release18: replaced}[form.release]
		names := namesIn(bodyOf(t, form))
		for _, name := range unknown {
			if slices.Contains(names, name) {
				t.Errorf("%s has %s, which is not of Nomad %s", form.path, name, form.release)
			}
		}
		if form.release == nomad.Release18 && !slices.Contains(names, "consul") {
			t.Errorf("%s has no block consul: its task would have no token", form.path)
		}
	}
}

// bodyOf parses a job file as it is printed.
func bodyOf(t *testing.T, f form) *hclsyntax.Body {
	t.Helper()
	text, err := nomad.Job(f.job.Name, f.release, nil)
	if err != nil {
		t.Fatal(err)
	}
	file, diags := hclsyntax.ParseConfig([]byte(text), f.path, hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatalf("%s: %v", f.path, diags)
	}
	return file.Body.(*hclsyntax.Body)
}

func settingsOf(t *testing.T, f form) map[string]string {
	t.Helper()
	text, err := nomad.Job(f.job.Name, f.release, nil)
	if err != nil {
		t.Fatal(err)
	}
	return settingsIn(text, "", bodyOf(t, f))
}

// namesIn are the names of all attributes and blocks of the job, not those of its
// variables.
func namesIn(body *hclsyntax.Body) []string {
	names := slices.Collect(maps.Keys(body.Attributes))
	for _, b := range body.Blocks {
		if b.Type == "variable" {
			continue
		}
		names = append(append(names, b.Type), namesIn(b.Body)...)
	}
	return names
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
