package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// TestExample: what `config init` writes lacks only the secrets' files.
func TestExample(t *testing.T) {
	_, err := config.Parse("pg.hcl", []byte(config.Example()), environment())
	var faults *config.Error
	if !errors.As(err, &faults) {
		t.Fatalf("got %v", err)
	}
	for _, d := range faults.Diagnostics {
		if !strings.Contains(d.Text, "password_file: read file") {
			t.Errorf("%s", d)
		}
	}
}

// TestExampleProxy: what `config init --proxy` writes is good as it is; what it shows
// in comments too.
func TestExampleProxy(t *testing.T) {
	all := regexp.MustCompile(`(?m)^( *)# ( *(?:[a-z_]+ *= |[a-z]+ (?:"[a-z]+" )?\{|\}))`).ReplaceAllString(config.ExampleProxy(), "$1$2")
	for name, text := range map[string]string{"as it is": config.ExampleProxy(), "all of it": all} {
		file := filepath.Join(t.TempDir(), "proxy.hcl")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.LoadProxy(file, environment())
		var faults *config.Error
		if errors.As(err, &faults) {
			for _, d := range faults.Diagnostics {
				if !strings.Contains(d.Text, "_file: ") {
					t.Errorf("%s: %s", name, d)
				}
			}
			continue
		}
		if err != nil || name == "all of it" || c.HAProxy.Socket == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestExampleWhole: what `config init` shows in comments is good too.
func TestExampleWhole(t *testing.T) {
	all := regexp.MustCompile(`(?m)^( *)# ( *(?:[a-z_]+ *= |[a-z_]+ (?:"[a-z]+" )?\{|\}))`).ReplaceAllString(config.Example(), "$1$2")
	all = strings.Replace(all, "advertise = listen ", `advertise = "10.0.0.7:5432" `, 1)
	_, err := config.Parse("pg.hcl", []byte(all), environment())
	var faults *config.Error
	if !errors.As(err, &faults) {
		t.Fatalf("%v\n%s", err, all)
	}
	for _, d := range faults.Diagnostics {
		if !strings.Contains(d.Text, "_file: ") && !strings.Contains(d.Text, "only before_promote can be aborted") && !strings.Contains(d.Text, "max_lag") &&
			!strings.Contains(d.Text, "postgres.wal_dir") { // of these one excludes the other
			t.Errorf("%s", d)
		}
	}
	for _, block := range []string{"\nbackup \"main\" {", "\nbootstrap {", "\nhook \"vip\" {", "\nnotify \"ops\" {"} {
		if !strings.Contains(all, block) {
			t.Errorf("the example has no block %s", strings.TrimSpace(block))
		}
	}
}

// written are the files that are read, written, and read again.
func written(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(files, func(file string) bool {
		want, err := os.ReadFile(strings.TrimSuffix(file, ".hcl") + ".want")
		return err != nil || len(want) > 0 // it is faulty
	})
}

// TestWriteReadsBack: what is written is the same configuration, but for the secrets
// that came from the environment. Each field is set in one of the files.
func TestWriteReadsBack(t *testing.T) {
	unset := map[string]bool{}
	fields(reflect.TypeFor[config.Config](), "", func(path string) { unset[path] = true })
	for _, file := range written(t) {
		before, err := config.Load(file, environment())
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := before.Write(&text); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text.String(), "hunter") {
			t.Errorf("a secret was printed:\n%s", text.String())
		}
		// Where the secrets were, the environment gives them again; paths are
		// relative to the working directory now.
		source := text.String()
		for of, with := range map[string]string{"password": `env("REPLICATION_PASSWORD")`, "token": `file("testdata/secrets/token")`,
			"key": `env("PEERS_KEY")`, "webhook": `"https://hooks.example.com/pg"`} {
			source = strings.ReplaceAll(source, "# "+of+" is set, and secret", of+" = "+with)
		}
		after, err := config.Parse("written.hcl", []byte(source), environment())
		if err != nil {
			t.Fatalf("%s: %v\n%s", file, err, source)
		}
		leaves(reflect.ValueOf(*before), "", func(path string, v reflect.Value) { delete(unset, path) })
		for _, c := range []*config.Config{before, after} {
			c.PgBouncer.Account.Password, c.Consul.Token = config.Secret{}, config.Secret{}
			for i := range c.Notices {
				c.Notices[i].URL = ""
			}
		}
		if got, want := schedulesOf(after), schedulesOf(before); !slices.Equal(got, want) {
			t.Errorf("%s: schedules %v, want %v", file, got, want)
		}
		if !reflect.DeepEqual(before, after) {
			t.Errorf("%s: got\n%+v\nwant\n%+v\nfrom\n%s", file, after, before, source)
		}
	}
	for path := range unset {
		// These come from the environment, and no file can say them; and one is a proxy's
		// (TestProxy).
		if path != "Consul.Secure" && path != "Consul.TLS.Insecure" && path != "Consul.OtherDatacenter" {
			t.Errorf("no file sets %s", path)
		}
	}
}

// schedulesOf takes the schedules out as text: parsed ones have functions in them.
func schedulesOf(c *config.Config) (all []string) {
	for i := range c.Backups {
		for _, s := range c.Backups[i].Schedules {
			all = append(all, string(s.Kind)+" "+s.String())
		}
		c.Backups[i].Schedules = nil
	}
	return all
}

// fields calls found with the path of each field that holds a value.
func fields(of reflect.Type, path string, found func(path string)) {
	switch {
	case of == reflect.TypeFor[config.Secret]() || of == reflect.TypeFor[backup.Schedule]():
		found(path)
	case of.Kind() == reflect.Struct:
		for f := range of.Fields() {
			fields(f.Type, strings.TrimPrefix(path+"."+f.Name, "."), found)
		}
	case of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct:
		fields(of.Elem(), path, found)
	default:
		found(path)
	}
}

// leaves calls found with each field that has a value.
func leaves(v reflect.Value, path string, found func(path string, v reflect.Value)) {
	switch {
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			leaves(v.Index(i), path, found)
		}
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[config.Secret]() && v.Type() != reflect.TypeFor[backup.Schedule]():
		for i := range v.NumField() {
			leaves(v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), found)
		}
	case !v.IsZero():
		found(path, v)
	}
}
