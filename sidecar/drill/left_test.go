package drill_test

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// surroundings are what of the machine no lab may change.
type surroundings struct{ interfaces []string }

func lookAround(t testing.TB) surroundings {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var s surroundings
	for _, i := range interfaces {
		s.interfaces = append(s.interfaces, i.Name)
	}
	return s
}

// made is a lab that was seen while it ran, and the ids of the shared memory of
// its servers, as their postmaster.pid named them.
type made struct {
	*lab.Plan
	segments []string
}

// labIn looks at the lab in a folder.
func labIn(t testing.TB, folder string) made {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder, "lab.json"))
	if err != nil {
		t.Fatal(err)
	}
	m := made{Plan: new(lab.Plan)}
	if err := json.Unmarshal(b, m.Plan); err != nil {
		t.Fatal(err)
	}
	for _, h := range m.Members() {
		b, _ := os.ReadFile(filepath.Join(h.DataDir(), "postmaster.pid"))
		if lines := strings.Split(string(b), "\n"); len(lines) > 6 {
			if f := strings.Fields(lines[6]); len(f) == 2 {
				m.segments = append(m.segments, f[1])
			}
		}
	}
	return m
}

// nothingLeft fails for all that is left of a lab, and shows what was looked for.
// A process that was just killed may take a moment to go.
func nothingLeft(t testing.TB, before surroundings, p made) {
	t.Helper()
	var left []string
	for range 50 {
		if left = leftBehind(t, before, p); len(left) == 0 {
			t.Logf("lab %s in %s: no process, namespace, interface, mount, socket, shared memory (%s) or file of it is left; interfaces: %s",
				p.ID, p.Dir, strings.Join(p.segments, ", "), strings.Join(before.interfaces, ", "))
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	t.Errorf("left of lab %s:\n%s", p.ID, strings.Join(left, "\n"))
}

// leftBehind names all that is there of a lab.
func leftBehind(t testing.TB, before surroundings, p made) (left []string) {
	t.Helper()
	if _, err := os.Stat(p.Dir); err == nil {
		left = append(left, "folder "+p.Dir)
	}
	names, err := filepath.Glob("/run/netns/*" + p.ID + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		left = append(left, "namespace "+name)
	}
	for _, name := range lookAround(t).interfaces {
		if !slices.Contains(before.interfaces, name) {
			left = append(left, "interface "+name)
		}
	}
	for _, list := range []struct{ what, path string }{{"mount", "/proc/self/mounts"}, {"socket", "/proc/net/unix"}} {
		b, err := os.ReadFile(list.path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, p.Dir+"/") {
				left = append(left, list.what+" "+strings.TrimSpace(line))
			}
		}
	}
	return slices.Concat(left, processesOf(t, p.Plan), sharedMemory(p.segments))
}

// processesOf finds a lab's processes by their mark, and by where they work.
func processesOf(t testing.TB, p *lab.Plan) []string {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, process := range processes {
		environ, _ := os.ReadFile(filepath.Join(process, "environ"))
		cwd, _ := os.Readlink(filepath.Join(process, "cwd"))
		line, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		words := strings.ReplaceAll(string(line), "\x00", " ")
		if strings.Contains(string(environ), lab.EnvMark+"="+p.ID+"/") || strings.HasPrefix(cwd, p.Dir+"/") || strings.Contains(words, p.Dir+"/") {
			found = append(found, "process "+filepath.Base(process)+" "+words)
		}
	}
	return found
}

// sharedMemory names the segments of /proc/sysvipc/shm whose id is one of these.
func sharedMemory(ids []string) (found []string) {
	b, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return nil // a kernel without it has no segments
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && slices.Contains(ids, f[1]) {
			found = append(found, "shared memory "+f[1])
		}
	}
	return found
}
