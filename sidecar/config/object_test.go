package config_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// TestObject: programs are told what the written file says, and no secret.
func TestObject(t *testing.T) {
	for _, file := range []string{"testdata/full.hcl", "testdata/minimal.hcl"} {
		c, err := config.Load(file, environment())
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := c.Write(&text); err != nil {
			t.Fatal(err)
		}
		written, diags := hclsyntax.ParseConfig([]byte(text.String()), "written.hcl", hcl.InitialPos)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		got, err := json.MarshalIndent(c.Object(), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.MarshalIndent(bodyOf(t, written.Body.(*hclsyntax.Body)), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		var x, y any
		if json.Unmarshal(got, &x) != nil || json.Unmarshal(want, &y) != nil || !reflect.DeepEqual(x, y) {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		if strings.Contains(string(got), "hunter") {
			t.Errorf("a secret was given:\n%s", got)
		}
	}
}

// bodyOf is an HCL body as JSON has it.
func bodyOf(t *testing.T, body *hclsyntax.Body) map[string]any {
	t.Helper()
	object := map[string]any{}
	for name, a := range body.Attributes {
		value, diags := a.Expr.Value(nil)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		object[name] = ctyjson.SimpleJSONValue{Value: value}
	}
	for _, b := range body.Blocks {
		inside := bodyOf(t, b.Body)
		if len(b.Labels) == 0 {
			object[b.Type] = inside
			continue
		}
		if object[b.Type] == nil {
			object[b.Type] = map[string]any{}
		}
		object[b.Type].(map[string]any)[b.Labels[0]] = inside
	}
	return object
}
