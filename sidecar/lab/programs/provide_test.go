package programs

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestProvideConsul runs .tools/programs, which `make up` begins with, where Consul is
// too old, cannot be loaded, or comes broken: it says what to do in its last line,
// ends with status 1, and leaves no half of a program.
func TestProvideConsul(t *testing.T) {
	for _, p := range []string{"/usr/sbin/haproxy", "/usr/sbin/pgbouncer", "/usr/lib/postgresql"} {
		if _, err := os.Stat(p); err != nil {
			t.Skip("it would install Debian's packages first")
		}
	}
	const (
		none   = "programs: no Consul: neither Debian's archive nor the Go modules can be reached; put Consul 1.8 or later on PATH"
		old    = "#!/bin/sh\necho 'Consul v1.7.14'\n"
		recent = "#!/bin/sh\necho 'Consul v1.22.5'\n"
		fails  = "#!/bin/sh\necho no network >&2\nexit 100\n"
		broken = "#!/bin/sh\ncase \"$*\" in *download*) echo half >consul_1.8.7_amd64.deb ;; esac\n"
	)
	for _, c := range []struct {
		name     string
		programs map[string]string // on PATH
		code     int
		says     []string
	}{
		{"a recent one on PATH", map[string]string{"consul": recent}, 0, []string{"using Consul v1.22.5"}},
		{"too old, and no apt", map[string]string{"consul": old, "go": fails}, 1, []string{"is v1.7.14; 1.8 or later is needed", none}},
		{"one that does not run", map[string]string{"consul": fails, "go": fails}, 1, []string{"no Consul that runs", none}},
		{"no network", map[string]string{"apt-get": fails, "go": fails}, 1, []string{"archive.debian.org", none}},
		{"a broken download", map[string]string{"apt-get": broken, "go": fails}, 1, []string{none}},
		{"no Go", map[string]string{"apt-get": fails}, 1, []string{none}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := providerIn(t, c.programs)
			code, said := provide(t, dir)
			if code != c.code {
				t.Errorf("exit status %d, want %d\n%s", code, c.code, said)
			}
			for _, words := range c.says {
				if !strings.Contains(said, words) {
					t.Errorf("no %q in\n%s", words, said)
				}
			}
			lines := strings.Split(strings.TrimSpace(said), "\n")
			if last := lines[len(lines)-1]; c.code != 0 && !strings.HasPrefix(last, none) {
				t.Errorf("the last line is %q", last)
			}
			left, err := filepath.Glob(filepath.Join(dir, ".cache/bin/consul*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range left {
				if c.code != 0 && filepath.Base(name) != "consul.lock" {
					t.Errorf("%s is left", name)
				}
			}
			if rest, _ := filepath.Glob(filepath.Join(dir, "tmp.*")); len(rest) > 0 {
				t.Errorf("left in TMPDIR: %q", rest)
			}
		})
	}
}

// TestProvidePackages: where a package of Debian's is missing and nobody here may or can
// install it, one line says what to do, and nothing was begun.
func TestProvidePackages(t *testing.T) {
	const (
		recent = "#!/bin/sh\necho 'Consul v1.22.5'\n"
		user   = "#!/bin/sh\necho 1000\n"
		root   = "#!/bin/sh\necho 0\n"
		apt    = "#!/bin/sh\n"
	)
	for _, c := range []struct {
		name     string
		programs map[string]string
		says     string
	}{
		{"no apt", map[string]string{"id": root}, "this is not a Debian: install them"},
		{"no root", map[string]string{"id": user, "apt-get": apt}, "only root may install them: sudo apt-get install --no-install-recommends postgresql"},
		{"apt fails", map[string]string{"id": root, "apt-get": apt}, "Debian's packages were not installed, for the reason above; when it is mended, run make again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.programs["consul"] = recent
			dir := providerIn(t, c.programs)
			script := filepath.Join(dir, ".tools/programs")
			text, err := os.ReadFile(script)
			if err != nil {
				t.Fatal(err)
			}
			// A machine without PostgreSQL, and without its apt.
			away := strings.ReplaceAll(string(text), "/usr/lib/postgresql/", dir+"/none/")
			install := "#!/bin/sh\nexit 100\n"
			if err := errors.Join(os.WriteFile(script, []byte(away), 0o755), os.WriteFile(filepath.Join(dir, ".tools/install"), []byte(install), 0o755)); err != nil {
				t.Fatal(err)
			}
			code, said := provide(t, dir)
			lines := strings.Split(strings.TrimSpace(said), "\n")
			if last := lines[len(lines)-1]; code != 1 || !strings.HasPrefix(last, "programs: ") || !strings.Contains(last, c.says) {
				t.Errorf("exit status %d, no %q in\n%s", code, c.says, said)
			}
		})
	}
}

// providerIn copies .tools into a new folder, beside a PATH of the few tools that it
// needs and of these programs.
func providerIn(t *testing.T, programs map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, ".tools"), os.DirFS("../../../.tools")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "path")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"bash", "env", "dirname", "awk", "sort", "head", "flock", "mkdir", "rm", "ln", "cat", "id", "mktemp",
		"chmod", "tar", "wc", "mv", "cp", "grep", "dpkg-deb", "ip", "sh"} {
		if programs[tool] != "" {
			continue
		}
		if found, err := exec.LookPath(tool); err == nil {
			if err := os.Symlink(found, filepath.Join(path, tool)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// provide runs the copied .tools/programs, and returns its exit status and what it said.
func provide(t *testing.T, dir string) (code int, said string) {
	t.Helper()
	path := filepath.Join(dir, "path")
	cmd := exec.CommandContext(t.Context(), filepath.Join(path, "bash"), filepath.Join(dir, ".tools/programs"), "up")
	cmd.Env = []string{"PATH=" + path, "HOME=" + dir, "TMPDIR=" + dir}
	var b bytes.Buffer
	cmd.Stderr = &b
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), b.String()
}
