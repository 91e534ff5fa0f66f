package drill_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestRefusals runs `pgsidecar lab up` and `drill` where they cannot do what is
// asked: the exit status is 2, the message says what is wrong, and nothing was
// started or changed.
func TestRefusals(t *testing.T) {
	dir, err := os.MkdirTemp("", "refused")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	program := binary(t)
	precious := filepath.Join(dir, "precious")
	if err := os.Mkdir(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(precious, "file"), []byte("keep"), 0o644); err != nil {
		t.Fatal(err)
	}
	const anybody, nobody = 0, 65534
	for _, c := range []struct {
		name string
		user uint32
		args string
		want string
	}{
		{"isolated without root", nobody, "lab up --isolated --dir LAB", "need root"},
		{"breakable without root", nobody, "lab up --breakable --dir LAB", "need root"},
		{"a drill without root", nobody, "drill --isolated --dir LAB cut-off", "need root"},
		{"unknown scenario", anybody, "drill --dir LAB no-such-thing", `"no-such-thing"`},
		{"two Consul servers", anybody, "lab up --consul-servers 2 --dir LAB", "1 or 3"},
		{"too many members", anybody, "lab up --members 10 --dir LAB", "1 to 9"},
		{"unknown mode", anybody, "lab up --mode sometimes --dir LAB", "quorum or async"},
		{"a folder of somebody else", anybody, "lab up --dir " + precious, "holds something that is no lab (file)"},
		{"no lab to take down", anybody, "lab down --dir LAB", "no lab"},
		{"no lab to look at", anybody, "lab status --dir LAB", "no lab"},
		{"no iproute2", anybody, "lab up --isolated --dir LAB", "apt-get install iproute2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := os.Geteuid() == 0
			if c.name == "no iproute2" && !root {
				t.Skip("needs root to be asked for")
			}
			lab := filepath.Join(dir, "lab")
			cmd := exec.Command(program, strings.Fields(strings.ReplaceAll(c.args, "LAB", lab))...)
			cmd.Dir = "/"
			if c.name == "no iproute2" {
				cmd.Env = append(os.Environ(), "PATH=/nonexistent")
			}
			if root && c.user != anybody {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.user, Gid: c.user}}
			}
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 {
				t.Errorf("%v, want exit status 2", err)
			}
			if !strings.Contains(string(out), c.want) {
				t.Errorf("said %q, want %q in it", out, c.want)
			}
			if _, err := os.Stat(lab); err == nil {
				t.Errorf("%s was made", lab)
				os.RemoveAll(lab)
			}
		})
	}
	if b, err := os.ReadFile(filepath.Join(precious, "file")); err != nil || string(b) != "keep" {
		t.Errorf("somebody's file: %q, %v", b, err)
	}
}
