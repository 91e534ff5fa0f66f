// Package labtest is what the tests of several packages share that start real
// programs: PostgreSQL, Consul, HAProxy, PgBouncer or a whole lab.
//
// Such tests are the slow ones. `go test -short` leaves them out, and so does
// make check: a test asks for each program by Program, which skips it then.
package labtest

import (
	"errors"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// NeedPrograms skips a test that starts other programs when only those that
// need none are to run.
func NeedPrograms(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts other programs, which -short leaves out")
	}
}

// Program returns the path of a program that the test starts, as one of package
// programs's functions finds it. Without the program the test is skipped.
func Program(t testing.TB, find func() (string, error)) string {
	t.Helper()
	NeedPrograms(t)
	return Installed(t, find)
}

// Installed is Program for a test that only names the program, in a
// configuration for example, and does not start it.
func Installed(t testing.TB, find func() (string, error)) string {
	t.Helper()
	path, err := find()
	if errors.Is(err, programs.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// FreePort returns a port of 127.0.0.1 that nobody uses and that no other call
// in this process was given.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := programs.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Dialect returns how the Consul that the tests start is configured.
func Dialect(t testing.TB) programs.ConsulDialect {
	t.Helper()
	d, err := programs.DialectOf(Program(t, programs.Consul))
	if err != nil {
		t.Fatal(err)
	}
	return d
}
