package checks_test

import (
	"slices"
	"testing"
	"time"
)

func TestWeakCommits(t *testing.T) {
	p := primary(t, "n1")
	weak := func() []string {
		t.Helper()
		found, err := p.conn.WeakCommits(within(t, 5*time.Second))
		must(t, err)
		return found
	}
	p.exec("create role app")
	p.exec("alter role app set synchronous_commit = on")
	if found := weak(); len(found) != 0 {
		t.Fatalf("found %q where there is none", found)
	}
	p.exec("alter role app set synchronous_commit = off")
	p.exec("alter role app in database postgres set synchronous_commit = remote_write")
	p.exec("alter database postgres set synchronous_commit = local")
	want := []string{"synchronous_commit=local in database postgres", "synchronous_commit=off of role app",
		"synchronous_commit=remote_write of role app in database postgres"}
	if found := weak(); !slices.Equal(found, want) {
		t.Fatalf("found %q, want %q", found, want)
	}
}
