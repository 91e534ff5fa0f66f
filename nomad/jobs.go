package nomad

import (
	"embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

//go:embed files
var files embed.FS

// Release is the oldest Nomad that a job file is written for.
//
// Nomad 1.7 has a task's block consul (workload identity), and 1.8 the group's
// block disconnect and restart's render_templates; older ones refuse a file that
// has them. So Release16 has max_client_disconnect, and a token for Consul from
// Nomad's variables, which is what 1.6 and 1.7 have (Nomad's source, v1.6.1:
// jobspec2, structs.TaskGroup and scheduler/reconcile.go).
type Release string

const (
	Release16 Release = "1.6" // the last that is open source
	Release18 Release = "1.8" // and later: what most people run
)

// Releases are all that there are.
var Releases = []Release{Release16, Release18}

// JobFile is one of the job files.
type JobFile struct {
	Name  string // what Job knows it by
	About string // one line

	file string // in files/
	data jobData
}

// jobData is what a job file's template sees, besides constants.
type jobData struct {
	Name, Driver, Type string
	DNS                bool
	Release            Release
}

// The constants of job files.
func (jobData) VolumeDir() string      { return VolumeDir }
func (jobData) EnvNode() string        { return EnvNode }
func (jobData) EnvDataDir() string     { return EnvDataDir }
func (jobData) EnvKillTimeout() string { return EnvKillTimeout }

// Jobs returns the job files that there are.
func Jobs() []JobFile {
	jobs := []JobFile{
		{Name: "raw_exec", About: "the cluster, with driver raw_exec", file: clusterFile, data: jobData{Driver: "raw_exec"}},
		{Name: "exec", About: "the cluster, with driver exec", file: clusterFile, data: jobData{Driver: "exec"}},
		{Name: "docker", About: "the cluster, with driver docker", file: clusterFile, data: jobData{Driver: "docker"}},
		{Name: "haproxy", About: "HAProxy on some nodes", file: "haproxy.nomad.hcl.tmpl", data: jobData{Type: "service"}},
		{Name: "haproxy-system", About: "HAProxy on every node", file: "haproxy.nomad.hcl.tmpl", data: jobData{Type: "system"}},
		{Name: "app", About: "an application that finds the cluster by a template block", file: "app.nomad.hcl.tmpl"},
		{Name: "app-dns", About: "an application that finds the cluster by DNS", file: "app.nomad.hcl.tmpl", data: jobData{DNS: true}},
	}
	for i := range jobs {
		jobs[i].data.Name = jobs[i].Name
	}
	return jobs
}

const clusterFile = "cluster.nomad.hcl.tmpl"

// Job returns the text of a job file (HCL2) for a release, in which each of vars,
// name=value, is the default of its variable. A list's values are separated by
// commas; a list or map may also be written as in HCL. It returns ErrNoJob,
// ErrRelease or ErrVariable.
func Job(name string, release Release, vars []string) (string, error) {
	if !slices.Contains(Releases, release) {
		return "", fmt.Errorf("%w %q: expected 1.6 (for 1.6 and 1.7) or 1.8 (for 1.8 and later)", ErrRelease, release)
	}
	all := Jobs()
	i := slices.IndexFunc(all, func(j JobFile) bool { return j.Name == name })
	if i < 0 {
		var names []string
		for _, j := range all {
			names = append(names, j.Name)
		}
		return "", fmt.Errorf("%w %q: expected one of %s", ErrNoJob, name, strings.Join(names, ", "))
	}
	source, err := files.ReadFile("files/" + all[i].file)
	if err != nil {
		return "", fmt.Errorf("read the job's template: %w", err)
	}
	t, err := template.New(name).Delims("<%", "%>").Parse(string(source))
	if err != nil {
		return "", fmt.Errorf("read the job's template: %w", err)
	}
	var b strings.Builder
	data := all[i].data
	data.Release = release
	if err := t.Execute(&b, data); err != nil {
		return "", fmt.Errorf("write the job: %w", err)
	}
	text := b.String()
	for _, v := range vars {
		if text, err = setDefault(text, v); err != nil {
			return "", err
		}
	}
	return text, nil
}

// variableBlock finds a variable's type and default: each on a line of its own,
// which TestVariables holds the files to.
var variableBlock = regexp.MustCompile(`(?m)^variable "(\w+)" \{\n  type +?= (\S+)\n  default +?= (.*)\n`)

// setDefault puts a value, given as name=value, in place of a variable's default.
func setDefault(text, assignment string) (string, error) {
	name, value, ok := strings.Cut(assignment, "=")
	if !ok {
		return "", fmt.Errorf("%w: %q; expected name=value", ErrVariable, assignment)
	}
	var names []string
	for _, m := range variableBlock.FindAllStringSubmatchIndex(text, -1) {
		group := func(n int) string { return text[m[2*n]:m[2*n+1]] }
		if group(1) != name {
			names = append(names, group(1))
			continue
		}
		literal, err := literalOf(group(2), value)
		if err != nil {
			return "", fmt.Errorf("%w %s: %w", ErrVariable, name, err)
		}
		return text[:m[6]] + literal + text[m[7]:], nil
	}
	return "", fmt.Errorf("%w: no variable %q; there are %s", ErrVariable, name, strings.Join(names, ", "))
}

// literalOf writes a value as HCL.
func literalOf(kind, value string) (string, error) {
	switch kind {
	case "string":
		return quote(value), nil
	case "number":
		if _, err := strconv.ParseFloat(value, 64); err != nil {
			return "", fmt.Errorf("got %q, expected a number", value)
		}
		return value, nil
	case "bool":
		if value != "true" && value != "false" {
			return "", fmt.Errorf("got %q, expected true or false", value)
		}
		return value, nil
	case "list(string)":
		if strings.HasPrefix(value, "[") {
			return value, nil
		}
		var all []string
		for _, v := range strings.Split(value, ",") {
			all = append(all, quote(v))
		}
		return "[" + strings.Join(all, ", ") + "]", nil
	}
	if !strings.HasPrefix(value, "{") {
		return "", fmt.Errorf(`got %q, expected a map, such as { shared_buffers = "4GB" }`, value)
	}
	return value, nil
}

// quote writes a string as HCL does. ${ is kept for Nomad, not for HCL.
func quote(s string) string {
	b, _ := json.Marshal(s) // a string can always be encoded
	return strings.NewReplacer("${", "$${", "%{", "%%{", `\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(b))
}
