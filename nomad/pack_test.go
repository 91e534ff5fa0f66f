package nomad_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/pgsidecar/pgsidecar/nomad"
)

var variableOfJob = regexp.MustCompile(`(?ms)^variable "(\w+)" \{\n.*?^\}\n`)
var defaultOfVariable = regexp.MustCompile(`(?m)^(  default +?= ).*$`)

// packTemplate turns the template of the cluster's job files into the pack's:
// other delimiters, and the pack's variables in place of what Go's template sees.
func packTemplate(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("files/cluster.nomad.hcl.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	text := variableOfJob.ReplaceAllStringFunc(string(b), func(block string) string {
		name := variableOfJob.FindStringSubmatch(block)[1]
		return defaultOfVariable.ReplaceAllString(block, `${1}[[ var "`+name+`" . | toJson | replace "$${" "$$$${" ]]`)
	})
	return strings.NewReplacer("<%-", "[[-", "<%", "[[", "%>", "]]",
		" .VolumeDir ", ` "`+nomad.VolumeDir+`" `, " .EnvNode ", ` "`+nomad.EnvNode+`" `, " .EnvDataDir ", ` "`+nomad.EnvDataDir+`" `,
		" .EnvKillTimeout ", ` "`+nomad.EnvKillTimeout+`" `, " .Driver ", ` (var "driver" .) `, " .Release ", ` (var "nomad" .) `, " .Name ", ` (var "driver" .) `).Replace(text)
}

// packVariables are the variables of all drivers' jobs, and the driver.
func packVariables(t *testing.T) string {
	t.Helper()
	blocks := map[string]string{"driver": `variable "driver" {
  type        = string
  default     = "exec"
  description = "raw_exec, exec or docker."
}
`, "nomad": `variable "nomad" {
  type        = string
  default     = "1.8"
  description = "1.8: for Nomad 1.8 and later. 1.6: for Nomad 1.6 and 1.7."
}
`}
	for _, form := range forms() {
		if !slices.Contains(drivers, form.job.Name) {
			continue
		}
		text, err := nomad.Job(form.job.Name, form.release, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range variableOfJob.FindAllStringSubmatch(text, -1) {
			if len(m[0]) > len(blocks[m[1]]) { // the longer description
				blocks[m[1]] = m[0]
			}
		}
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		all = append(all, blocks[name])
	}
	return strings.Join(all, "\n")
}

var drivers = []string{"raw_exec", "exec", "docker"}

// TestPack holds the pack to the job files: its template, rendered as Nomad Pack
// does with its variables' defaults, is the job that Job prints.
func TestPack(t *testing.T) {
	for name, text := range map[string]string{"templates/pgsidecar.nomad.tpl": packTemplate(t), "variables.hcl": packVariables(t)} {
		path := filepath.Join("pack", name)
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != text {
			t.Errorf("%s is not what the job files make it; go test ./nomad -update writes it", path)
		}
	}
	for _, form := range forms() {
		driver := form.job.Name
		if !slices.Contains(drivers, driver) {
			continue
		}
		want, err := nomad.Job(driver, form.release, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := renderPack(t, driver, form.release)
		// A default is JSON there.
		if a, b := spaceless(got), spaceless(want); a != b {
			i := 0
			for i < min(len(a), len(b)) && a[i] == b[i] {
				i++
			}
			t.Errorf("%s: the pack's job differs: …%.200s\nwant …%.200s", form.path, a[max(0, i-60):], b[max(0, i-60):])
		}
	}
}

// spaceless takes away what JSON and HCL write differently.
func spaceless(text string) string {
	return strings.NewReplacer(" ", "", "\n", "", `"`, "", ":", "=").Replace(text)
}

// renderPack renders the pack's template with the functions that Nomad Pack
// gives it (its own var, and Sprig's).
func renderPack(t *testing.T, driver string, release nomad.Release) string {
	t.Helper()
	variables := filepath.Join("pack", "variables.hcl")
	b, err := os.ReadFile(variables)
	if err != nil {
		t.Fatal(err)
	}
	file, diags := hclsyntax.ParseConfig(b, variables, hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	values := map[string]any{}
	for _, block := range file.Body.(*hclsyntax.Body).Blocks {
		v, diags := block.Body.Attributes["default"].Expr.Value(nil)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		encoded, err := ctyjson.Marshal(v, v.Type())
		if err != nil {
			t.Fatal(err)
		}
		values[block.Labels[0]] = json.RawMessage(encoded)
		if v.Type() == cty.String {
			values[block.Labels[0]] = v.AsString()
		}
	}
	values["driver"], values["nomad"] = driver, string(release)
	tmpl, err := template.New("pack").Delims("[[", "]]").Option("missingkey=error").Funcs(template.FuncMap{
		"var": func(name string, all map[string]any) any { return all[name] },
		"toJson": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"replace": func(old, new, s string) string { return strings.ReplaceAll(s, old, new) },
	}).ParseFiles(filepath.Join("pack", "templates", "pgsidecar.nomad.tpl"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := tmpl.ExecuteTemplate(&out, "pgsidecar.nomad.tpl", values); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
