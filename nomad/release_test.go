package nomad_test

import (
	"bytes"
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/nomad"
)

var versionOfNomad = regexp.MustCompile(`^Nomad v(\d+)\.(\d+)\.`)

// releaseOf asks a Nomad for its version.
func releaseOf(t *testing.T, program string) nomad.Release {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "version").Output()
	m := versionOfNomad.FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("%s version: %q, %v", program, out, err)
	}
	major, _ := strconv.Atoi(string(m[1])) // they are digits
	minor, _ := strconv.Atoi(string(m[2]))
	release := nomad.Release18
	if major == 1 && minor < 8 {
		release = nomad.Release16
	}
	t.Logf("%s: the job files for Nomad %s run", bytes.TrimSpace(bytes.SplitN(out, []byte("\n"), 2)[0]), release)
	return release
}

// newerOnly skips a test of what only the newer job files have.
func (w *world) newerOnly(what string) {
	w.t.Helper()
	if w.release == nomad.Release16 {
		w.t.Skipf("%s is in the job files for Nomad 1.8 and later only: put such a Nomad on PATH, remove .cache/bin/nomad, and run make test-nomad again", what)
	}
}

// jobFile is the job file in the form of the Nomad that runs here.
func (w *world) jobFile(name string) string { return jobPath(name, w.release) }
