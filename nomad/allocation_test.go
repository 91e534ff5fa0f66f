package nomad_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/nomad"
)

// getenv returns an environment of pairs.
func getenv(pairs ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == key {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func allocation(t *testing.T, pairs ...string) nomad.Allocation {
	t.Helper()
	a, in, err := nomad.FromEnvironment(getenv(append(pairs, "NOMAD_ALLOC_ID", "0d9f", "NOMAD_JOB_NAME", "Orders", "NOMAD_GROUP_NAME", "pg", "NOMAD_ALLOC_INDEX", "2")...))
	if err != nil || !in {
		t.Fatalf("in an allocation: %t, %v", in, err)
	}
	return a
}

// TestFromEnvironment takes what a configuration needs from a task's
// environment, inside of a bridge and outside.
func TestFromEnvironment(t *testing.T) {
	if _, in, err := nomad.FromEnvironment(getenv()); in || err != nil {
		t.Errorf("outside of Nomad: %t, %v", in, err)
	}
	a := allocation(t, "NOMAD_PORT_postgres", "5432", "NOMAD_HOST_PORT_postgres", "23456", "NOMAD_HOST_IP_postgres", "10.0.0.1",
		"NOMAD_IP_postgres", "172.26.64.3", "NOMAD_PORT_api", "23457", "NOMAD_IP_api", "fd00::1", "NOMAD_SECRETS_DIR", "/secrets")
	if a.Cluster() != "orders" || a.DataDir() != "/var/lib/pgsidecar/orders" || a.ConsulTokenFile() != "/secrets/consul_token" {
		t.Errorf("got %s, %s, %s", a.Cluster(), a.DataDir(), a.ConsulTokenFile())
	}
	if listen, advertise := a.Port("postgres"); listen != "0.0.0.0:5432" || advertise != "10.0.0.1:23456" {
		t.Errorf("behind a bridge: listen %s, advertise %s", listen, advertise)
	}
	if listen, advertise := a.Port("api"); listen != "0.0.0.0:23457" || advertise != "[fd00::1]:23457" {
		t.Errorf("on the host's network: listen %s, advertise %s", listen, advertise)
	}
	if listen, advertise := a.Port("other"); listen != "" || advertise != "" {
		t.Errorf("no such port: listen %s, advertise %s", listen, advertise)
	}
	if dir := allocation(t, nomad.EnvDataDir, "/srv/pg/").DataDir(); dir != "/srv/pg" {
		t.Errorf("data directory %s", dir)
	}
}

// TestKillTimeout: too short for any handover, too short for the configured
// stop, good, and unreadable.
func TestKillTimeout(t *testing.T) {
	for text, good := range map[string]bool{"2s": false, "9999ms": false, "20s": false, "30s": true, "": true} {
		err := allocation(t, nomad.EnvKillTimeout, text).CheckKillTimeout(20 * time.Second)
		if good != (err == nil) || err != nil && !errors.Is(err, nomad.ErrKillTimeout) {
			t.Errorf("kill_timeout %q: %v", text, err)
		}
	}
	if d := allocation(t, nomad.EnvKillTimeout, "30s").StopTimeout(); d != 20*time.Second {
		t.Errorf("stop timeout %s", d)
	}
	for _, text := range []string{"30", "-1s", "soon"} {
		if _, _, err := nomad.FromEnvironment(getenv("NOMAD_ALLOC_ID", "x", nomad.EnvKillTimeout, text)); !errors.Is(err, nomad.ErrEnvironment) {
			t.Errorf("kill_timeout %q: %v", text, err)
		}
	}
}

// TestIdentity: the name is the node's or the allocation's at first, and stays
// with the data from then on.
func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	a := allocation(t)
	name := func(a nomad.Allocation) string {
		t.Helper()
		name, err := a.Member(dir)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	if got := name(a); got != "pg-2" {
		t.Errorf("without a node: %q", got)
	}
	if got := name(allocation(t, nomad.EnvNode, "DB_1.example.com")); got != "db-1" {
		t.Errorf("of a node: %q", got)
	}
	if err := nomad.Keep(dir, "pg-2"); err != nil {
		t.Fatal(err)
	}
	if got := name(allocation(t, nomad.EnvNode, "elsewhere")); got != "pg-2" {
		t.Errorf("kept: %q", got)
	}
	if err := nomad.Keep(dir, "pg-2"); err != nil {
		t.Errorf("kept again: %v", err)
	}
	if err := nomad.Keep(dir, "pg-3"); !errors.Is(err, nomad.ErrIdentity) {
		t.Errorf("another's data: %v", err)
	}
	if got := name(a); got != "pg-2" {
		t.Errorf("after a refused change: %q", got)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestVolume refuses data directories that end with the allocation.
func TestVolume(t *testing.T) {
	dir := t.TempDir()
	alloc := filepath.Join(dir, "alloc")
	if err := os.MkdirAll(alloc, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(alloc, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	a := allocation(t, "NOMAD_ALLOC_DIR", alloc, "NOMAD_TASK_DIR", filepath.Join(dir, "local"))
	for path, good := range map[string]bool{
		filepath.Join(dir, "volume", "pg"):    true,
		filepath.Join(alloc, "pg"):            false,
		filepath.Join(dir, "link", "x", "pg"): false,
		filepath.Join(dir, "local"):           false,
		filepath.Join(dir, "local-volume"):    true,
	} {
		if err := a.CheckVolume(path); good != (err == nil) || err != nil && !errors.Is(err, nomad.ErrEphemeral) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// A file system of its own: only what is mounted outlives the task. /proc is
	// the mount that every machine has.
	isolated := allocation(t, "NOMAD_ALLOC_DIR", "/alloc", "NOMAD_TASK_DIR", "/local")
	if err := isolated.CheckVolume("/nowhere/mounted"); !errors.Is(err, nomad.ErrEphemeral) {
		t.Errorf("in the task's own file system: %v", err)
	}
	if err := isolated.CheckVolume("/proc/volume"); err != nil {
		t.Errorf("on a mount: %v", err)
	}
}

// TestCutShort: a stop that ended leaves nothing; one that did not is told once.
func TestCutShort(t *testing.T) {
	dir := t.TempDir()
	if _, was, err := nomad.CutShort(dir); was || err != nil {
		t.Fatalf("never stopped: %t, %v", was, err)
	}
	ended, err := nomad.Watch(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ended(); err != nil {
		t.Fatal(err)
	}
	if _, was, err := nomad.CutShort(dir); was || err != nil {
		t.Fatalf("ended: %t, %v", was, err)
	}
	began := time.Now().Add(-7 * time.Second)
	path := filepath.Join(dir, "stopping")
	if err := os.WriteFile(path, []byte(began.Format(time.RFC3339Nano)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, began, began.Add(5*time.Second)); err != nil {
		t.Fatal(err)
	}
	after, was, err := nomad.CutShort(dir)
	if err != nil || !was || after.Round(time.Second) != 5*time.Second {
		t.Errorf("killed: %t after %s, %v", was, after, err)
	}
	if _, was, err := nomad.CutShort(dir); was || err != nil {
		t.Errorf("told already: %t, %v", was, err)
	}
}

// TestRank: later placed before earlier, whatever the index; the higher index
// before the lower; and it fits into 42 bits.
func TestRank(t *testing.T) {
	dir := t.TempDir()
	rank := func(dir, index string) int {
		a, _, err := nomad.FromEnvironment(getenv("NOMAD_ALLOC_ID", "0d9f", "NOMAD_ALLOC_DIR", dir, "NOMAD_ALLOC_INDEX", index))
		if err != nil {
			t.Fatal(err)
		}
		return a.Rank()
	}
	if a, b := rank(dir, "1"), rank(dir, "2"); a >= b {
		t.Errorf("index 1 has %d, index 2 has %d", a, b)
	}
	// A process that is started again ranks as before.
	old, young := rank(dir, "2"), 0
	for tick := time.NewTicker(100 * time.Millisecond); young>>10 <= old>>10; <-tick.C {
		young = rank(t.TempDir(), "0")
	}
	if again := rank(dir, "2"); again != old {
		t.Errorf("started again: %d, was %d", again, old)
	}
	for _, index := range []string{"", "-1", "1024", "x"} {
		if a, b := rank(dir, index), rank(dir, "0"); a != b {
			t.Errorf("index %q has %d, want %d", index, a, b)
		}
	}
	if r := rank(dir, "1023"); r >= 1<<42 || r <= 0 {
		t.Errorf("%d does not fit", r)
	}
	if r := rank(filepath.Join(dir, "none"), "1"); r>>10 < int(time.Now().Unix())-5 {
		t.Errorf("without an age it is %d", r)
	}
}
