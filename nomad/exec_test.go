package nomad_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/nomad"
)

// TestExec runs the cluster with the exec driver: each member in a file system,
// and a namespace of processes, of its own, as the user postgres.
func TestExec(t *testing.T) {
	w := newWorld(t)
	w.chroot = chroot(t, w)
	w.start(false)
	w.must("var", "put", "-force", "nomad/jobs/pg", "superuser="+superuserPassword, "replication="+replicationPassword, "api="+apiToken)
	c := &cluster{world: w, byNode: map[string]alloc{}}
	t.Cleanup(func() { c.purge("pg", "pg-no-volume") })
	postgres, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		if out, err := exec.Command("chown", "postgres", n.volume).CombinedOutput(); err != nil {
			t.Fatalf("chown: %v\n%s", err, out)
		}
	}
	args := vars("command", "/usr/local/bin/pgsidecar", "uid", postgres.Uid, "consul", "${meta.consul}", "bin_dir", w.binDir(), "cpu", "100", "memory", "300",
		"hba", `["host all all 127.0.0.1/32 scram-sha-256"]`, "min_healthy_time", "3s", "parameters", `{ shared_buffers = "16MB", dynamic_shared_memory_type = "sysv" }`)
	step := c.steps(t)

	step("no volume", func(t *testing.T) { c.testExecNoVolume(t, args) })
	if !step("run to the first write", func(t *testing.T) {
		began := time.Now()
		c.must(append([]string{"job", "run", "-detach"}, append(args, c.jobFile("exec"))...)...)
		c.firstWrite(t, began)
		c.whole()
	}) {
		t.Fatal("nothing to go on with")
	}
	c.writers = []*writer{startWriter(t, "dns", c.byDNS("pg"))}
	step("kill all", func(t *testing.T) {
		a := c.primary(t)
		c.measured(t, "primary's task killed", func() {
			// It is process 1 of its namespace, so the kernel kills the others too.
			c.must("alloc", "signal", "-s", "SIGKILL", a.ID)
			c.handedOver(a)
		})
	})
	step("stop", c.testStop)
	c.judge(t)
	w.t = t
}

// testExecNoVolume: the data directory would be in the task's own file system.
func (c *cluster) testExecNoVolume(t *testing.T, args []string) {
	text, err := nomad.Job("exec", c.release, []string{"job=pg-no-volume", "count=1"})
	if err != nil {
		t.Fatal(err)
	}
	from := strings.Index(text, "      volume_mount {")
	to := from + strings.Index(text[from:], "      }\n") + len("      }\n")
	path := filepath.Join(c.dir, "no-volume.nomad.hcl")
	if err := os.WriteFile(path, []byte(text[:from]+text[to:]), 0o644); err != nil {
		t.Fatal(err)
	}
	c.must("var", "put", "-force", "nomad/jobs/pg-no-volume", "superuser="+superuserPassword, "replication="+replicationPassword, "api="+apiToken)
	c.must(append([]string{"job", "run", "-detach"}, append(args, path)...)...)
	c.says("pg-no-volume", "is in the task's own file system")
	c.purge("pg-no-volume")
	for _, n := range c.nodes {
		if left, err := filepath.Glob(filepath.Join(n.volume, "*")); err != nil || len(left) > 0 {
			t.Errorf("left in the volume of %s: %q, %v", n.name, left, err)
		}
	}
}

// chroot is what a client is to put into the file system of an exec task: what
// PostgreSQL and its libraries are, and not the whole of /usr, which is the
// default and here takes gigabytes.
func chroot(t *testing.T, w *world) map[string]string {
	t.Helper()
	bin := w.binDir()
	lib := filepath.Join(filepath.Dir(bin), "lib")
	env := map[string]string{w.pgsidecar: "/usr/local/bin/pgsidecar"}
	for _, path := range []string{bin, lib, "/bin/sh", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/usr/share/postgresql", "/usr/share/zoneinfo", "/usr/lib/locale"} {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			t.Fatal(err)
		}
		env[real] = path
	}
	programs, err := filepath.Glob(bin + "/*")
	if err != nil {
		t.Fatal(err)
	}
	modules, err := filepath.Glob(lib + "/*.so")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(append(programs, modules...), "/bin/sh") {
		if !strings.Contains(path, "llvm") { // not needed, and large
			maps.Copy(env, libraries(t, path))
		}
	}
	return env
}

// libraries are the shared libraries that a program is linked with, and the names
// that it knows them by.
func libraries(t *testing.T, path string) map[string]string {
	t.Helper()
	// The answer for a script is a failure: it has none.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ldd", path).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("ldd %s: %v", path, err)
	}
	found := map[string]string{}
	for _, name := range strings.Fields(string(out)) {
		if !strings.HasPrefix(name, "/") {
			continue
		}
		real, err := filepath.EvalSymlinks(name)
		if err != nil {
			t.Fatal(err)
		}
		found[real] = name
	}
	return found
}
