package cli

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"

	"github.com/pgsidecar/pgsidecar/nomad"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// jobFile is a job as Nomad reads it with the defaults of its variables.
type jobFile struct {
	t      *testing.T
	name   string
	local  string // stands for all the directories of the allocation
	labels []string
	has    map[string]string // template destination to text, of all tasks
}

// TestNomadJobs holds what the job files say to what there is: commands, flags
// and configurations are this program's, ports are the group's, checks ask the
// API for what it has, volumes and secrets are where they are looked for.
func TestNomadJobs(t *testing.T) {
	for _, j := range nomad.Jobs() {
		for _, release := range nomad.Releases {
			t.Run(j.Name+" for "+string(release), func(t *testing.T) { checkJob(t, j.Name, release) })
		}
	}
}

func checkJob(t *testing.T, name string, release nomad.Release) {
	text, err := nomad.Job(name, release, nil)
	if err != nil {
		t.Fatal(err)
	}
	commandsIn(t, text)
	file, diags := hclsyntax.ParseConfig([]byte(text), name, hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	f := &jobFile{t: t, name: name, local: t.TempDir(), has: map[string]string{}}
	body := file.Body.(*hclsyntax.Body)
	scope := f.scope(body)
	f.walk(body, scope, func(b *hclsyntax.Block, _ *hcl.EvalContext) {
		if b.Type == "port" {
			f.labels = append(f.labels, b.Labels[0])
		}
	})
	tasks := 0
	f.walk(body, scope, func(b *hclsyntax.Block, scope *hcl.EvalContext) {
		switch b.Type {
		case "service":
			f.service(b, scope)
		case "volume_mount":
			if d := f.text(b, "destination", scope); f.text(b, "volume", scope) != "data" || d != nomad.VolumeDir {
				t.Errorf("the volume is mounted at %s, and the data are looked for in %s", d, nomad.VolumeDir)
			}
		case "task":
			tasks++
			f.task(b, scope)
		}
	})
	if tasks == 0 {
		t.Error("no task")
	}
	if strings.Contains(text, `port "postgres"`) {
		f.member()
	}
}

// scope has the variables' defaults, and what Nomad knows of a node and puts
// into a task's environment.
func (f *jobFile) scope(body *hclsyntax.Body) *hcl.EvalContext {
	set := map[string]cty.Value{}
	for _, b := range body.Blocks {
		if b.Type == "variable" {
			v, diags := b.Body.Attributes["default"].Expr.Value(nil)
			if diags.HasErrors() {
				f.t.Fatal(diags)
			}
			set[b.Labels[0]] = v
		}
	}
	dir := cty.StringVal(f.local)
	return &hcl.EvalContext{
		Variables: map[string]cty.Value{"var": cty.ObjectVal(set), "NOMAD_TASK_DIR": dir, "NOMAD_SECRETS_DIR": dir, "NOMAD_ALLOC_DIR": dir,
			"node": cty.ObjectVal(map[string]cty.Value{"unique": cty.ObjectVal(map[string]cty.Value{"name": cty.StringVal("n1")})})},
		Functions: map[string]function.Function{"jsonencode": stdlib.JSONEncodeFunc, "merge": stdlib.MergeFunc},
	}
}

// walk visits all blocks, those of dynamic blocks once for each value.
func (f *jobFile) walk(body *hclsyntax.Body, scope *hcl.EvalContext, visit func(*hclsyntax.Block, *hcl.EvalContext)) {
	for _, b := range body.Blocks {
		if b.Type != "dynamic" {
			visit(b, scope)
			f.walk(b.Body, scope, visit)
			continue
		}
		each, diags := b.Body.Attributes["for_each"].Expr.Value(scope)
		if diags.HasErrors() {
			f.t.Fatal(diags)
		}
		for it := each.ElementIterator(); it.Next(); {
			k, v := it.Element()
			inner := scope.NewChild()
			inner.Variables = map[string]cty.Value{b.Labels[0]: cty.ObjectVal(map[string]cty.Value{"key": k, "value": v})}
			content := *b.Body.Blocks[0]
			content.Type = b.Labels[0]
			visit(&content, inner)
			f.walk(content.Body, inner, visit)
		}
	}
}

// value is an attribute of a block; null if it has none.
func (f *jobFile) value(b *hclsyntax.Block, name string, scope *hcl.EvalContext) cty.Value {
	a := b.Body.Attributes[name]
	if a == nil {
		return cty.NullVal(cty.String)
	}
	v, diags := a.Expr.Value(scope)
	if diags.HasErrors() {
		f.t.Fatal(diags)
	}
	return v
}

func (f *jobFile) text(b *hclsyntax.Block, name string, scope *hcl.EvalContext) string {
	v := f.value(b, name, scope)
	if v.IsNull() {
		return ""
	}
	return v.AsString()
}

// service: its port and those of its checks are the group's, and a check's path
// is one that the API answers, and not as it answers one that it does not know.
func (f *jobFile) service(b *hclsyntax.Block, scope *hcl.EvalContext) {
	if port := f.text(b, "port", scope); !slices.Contains(f.labels, port) {
		f.t.Errorf("service: no port %q in %q", port, f.labels)
	}
	for _, check := range b.Body.Blocks {
		path := f.text(check, "path", scope)
		if f.text(check, "type", scope) == "http" && !slices.Contains([]string{"/liveness", "/readiness"}, path) {
			f.t.Errorf("check: path %q", path)
		}
	}
}

// task: what it runs is there, and takes the flags that it is given.
func (f *jobFile) task(b *hclsyntax.Block, scope *hcl.EvalContext) {
	var words []string
	for _, inner := range b.Body.Blocks {
		if inner.Type != "config" {
			continue
		}
		words = []string{f.text(inner, "command", scope)}
		if v := f.value(inner, "args", scope); !v.IsNull() {
			for it := v.ElementIterator(); it.Next(); {
				_, word := it.Element()
				words = append(words, word.AsString())
			}
		}
	}
	f.walk(b.Body, scope, func(t *hclsyntax.Block, scope *hcl.EvalContext) {
		if t.Type == "template" {
			f.has[f.text(t, "destination", scope)] = f.text(t, "data", scope)
		}
	})
	if len(words) == 0 {
		f.t.Fatalf("task %s runs nothing", b.Labels[0])
	}
	for _, word := range words[1:] {
		if strings.HasPrefix(word, f.local) && f.has[word] == "" {
			f.t.Errorf("task %s: no template writes %s", b.Labels[0], word)
		}
	}
	if words[0] != "" && filepath.Base(words[0]) != "pgsidecar" {
		if _, err := os.Stat(words[0]); err != nil {
			f.t.Errorf("task %s: %v", b.Labels[0], err)
		}
		return
	}
	runs(f.t, append([]string{"pgsidecar"}, words[1:]...)) // docker: the image's entry point
	path := words[slices.Index(words, "-config")+1]
	text := regexp.MustCompile(`{{ env "NOMAD_[A-Z]+_DIR" }}`).ReplaceAllString(f.has[path], f.local)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if words[1] == "proxy" {
		if _, err := config.LoadProxy(path, config.OSEnvironment()); err != nil {
			f.t.Errorf("proxy.hcl: %v", err)
		}
	}
}

// member loads the configuration as in an allocation: each secret that a
// template writes is found, and the ports are those of the group.
func (f *jobFile) member() {
	for _, label := range []string{nomad.PortPostgres, nomad.PortAPI} {
		if !slices.Contains(f.labels, label) {
			f.t.Errorf("no port %q in %q", label, f.labels)
		}
	}
	for path, text := range f.has {
		if strings.Contains(text, "nomadVar") {
			if err := os.WriteFile(path, []byte("secret of "+filepath.Base(path)), 0o600); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	env := map[string]string{"NOMAD_ALLOC_ID": "0d9f", "NOMAD_JOB_NAME": "pg", "NOMAD_GROUP_NAME": "pg", "NOMAD_ALLOC_INDEX": "0",
		"NOMAD_SECRETS_DIR": f.local, nomad.EnvKillTimeout: "30s"}
	for i, label := range f.labels {
		port := []string{"20001", "20002"}[i]
		maps.Copy(env, map[string]string{"NOMAD_PORT_" + label: port, "NOMAD_HOST_PORT_" + label: port, "NOMAD_IP_" + label: "10.0.0.1"})
	}
	for k, v := range env {
		f.t.Setenv(k, v)
	}
	c, err := config.Load(filepath.Join(f.local, "pg.hcl"), process.Environment())
	if err != nil {
		f.t.Fatalf("pg.hcl: %v", err)
	}
	for what, secret := range map[string]config.Secret{"superuser.password": c.Postgres.Superuser.Password,
		"replication.password": c.Postgres.Replication.Password, "api.token": c.API.Token} {
		if secret.Reveal() != "secret of "+what {
			f.t.Errorf("%s is not taken from the file that the job writes", what)
		}
	}
	if c.Postgres.Advertise != "10.0.0.1:20001" || c.API.Advertise != "10.0.0.1:20002" || c.Cluster != "pg" || c.Member != "pg-0" {
		f.t.Errorf("advertises %s and %s as %s of %s", c.Postgres.Advertise, c.API.Advertise, c.Member, c.Cluster)
	}
}

// commandsIn: the commands in the comments are this program's.
func commandsIn(t *testing.T, text string) {
	t.Helper()
	named := regexp.MustCompile("(?m)^ *#(?:.*?[`' ])?(pgsidecar (?:nomad|files|config|switchover|failover|proxy|run|status)[^`'|>\n]*)").FindAllStringSubmatch(text, -1)
	if len(named) == 0 {
		t.Error("no command in the comments: not even the one that prints the file")
	}
	for _, m := range named {
		runs(t, strings.Fields(m[1]))
	}
}
