package cli

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write testdata/usage/*.txt anew")

// run is a process's command line, without the process.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &Process{Stdin: stdin, Stdout: stdout, Stderr: stderr, Getenv: os.Getenv, Version: "unknown"}
	return p.Run(ctx, args)
}

// command runs one command line as a process would.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// TestUsage holds the help of every command to testdata/usage.
func TestUsage(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())
		t.Run(strings.Join(path, " "), func(t *testing.T) {
			code, got, stderr := command(t, append(path[1:], "--help")...)
			if code != ExitOK || stderr != "" {
				t.Fatalf("exit status %d, stderr %q", code, stderr)
			}
			golden := filepath.Join("testdata", "usage", strings.Join(path, "-")+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand(&Process{Getenv: os.Getenv}))
}

// TestExitStatus: 0 good, 1 failed, 2 the command line's or the configuration's
// fault, with a message that says what to do.
func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("TEST_PASSWORD", "hunter2")
	good := file("good.hcl", `member = "n1"
postgres {
  listen = "127.0.0.1:5432"
  superuser { password = env("TEST_PASSWORD") }
  replication { password = env("TEST_PASSWORD") }
}
api { listen = "127.0.0.1:8008" }
`)
	proxy := file("proxy.hcl", "member = \"p1\"\ntemplate \"x\" {\n  builtin = \"nonesuch\"\n  destination = \"/x\"\n}\n")
	goodProxy := file("good-proxy.hcl", "template \"x\" {\n  builtin = \"uri\"\n  destination = \"/x\"\n}\n")
	bad := file("bad.hcl", "clutser = \"pg\"\n")
	for _, c := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // parts of them
	}{
		{"no command", nil, 0, "Usage:", ""},
		{"version", []string{"version"}, 0, "pgsidecar ", ""},
		{"a typing error", []string{"verison"}, 2, "", `did you mean "version"?`},
		{"a typing error below", []string{"config", "validat"}, 2, "", `did you mean "validate"?`},
		{"a typing error two below", []string{"config", "validte"}, 2, "", `did you mean "validate"?`},
		{"the version by a flag", []string{"-version"}, 0, "pgsidecar ", ""},
		{"the help of a command", []string{"help", "config", "set"}, 0, "durability.standbys=NUMBER", ""},
		{"the help of everything", []string{"help"}, 0, "switchover", ""},
		{"the help of no command", []string{"help", "switchovr"}, 2, "", `did you mean "switchover"?`},
		{"a shell's completion", []string{"completion", "bash"}, 0, "__start_pgsidecar", ""},
		{"no shell", []string{"completion", "bahs"}, 2, "", `did you mean "bash"?`},
		{"lines that are no JSON", []string{"config", "set", "hba=host all all 10.0.0.0/8 md5"}, 2, "", "a list of lines"},
		{"an unknown word", []string{"frobnicate"}, 2, "", "see pgsidecar --help"},
		{"an unknown flag", []string{"version", "-frobnicate"}, 2, "", "unknown flag: --frobnicate; see pgsidecar version --help"},
		{"an argument too many", []string{"version", "now"}, 2, "", "takes no arguments"},
		{"a guard without a directory", []string{"guard"}, 2, "", "-state-dir"},
		{"a good configuration", []string{"config", "validate", "-config", good}, 0, "good; member n1 of cluster pg", ""},
		{"a proxy's as a member's", []string{"config", "validate", "-config", goodProxy}, 2, "", "say so with --proxy"},
		{"a proxy's", []string{"config", "validate", "-proxy", "-config", goodProxy}, 0, "good", ""},
		{"two dashes", []string{"config", "validate", "--config=" + good}, 0, "good", ""},
		{"a bad configuration", []string{"config", "validate", "-config", bad}, 2, "", `bad.hcl:1:1: unknown key "clutser"; did you mean "cluster"?`},
		{"no configuration", []string{"config", "validate", "-config", dir + "/none"}, 2, "", "no such file"},
		{"an unknown builtin", []string{"config", "validate", "-proxy", "-config", proxy}, 2, "", `no builtin "nonesuch"`},
		{"the configuration in effect", []string{"config", "show", "-config", good}, 0, `lease               = "5s"`, ""},
		{"an example", []string{"config", "init"}, 0, "durability {", ""},
		{"an example to stdout by name", []string{"config", "init", "-"}, 0, "durability {", ""},
		{"an example over a file", []string{"config", "init", good}, 1, "", "file exists"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := command(t, c.args...)
			if code != c.code {
				t.Errorf("exit status %d, want %d", code, c.code)
			}
			if !strings.Contains(stdout, c.stdout) || (c.stdout == "") != (stdout == "") {
				t.Errorf("stdout %q, want %q", stdout, c.stdout)
			}
			if !strings.Contains(stderr, c.stderr) || (c.stderr == "") != (stderr == "") {
				t.Errorf("stderr %q, want %q", stderr, c.stderr)
			}
			if strings.Contains(stdout+stderr, "hunter2") {
				t.Errorf("a secret was printed: %s%s", stdout, stderr)
			}
		})
	}
}
