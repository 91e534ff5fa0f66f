package postgres

import (
	"os"
	"strings"
	"testing"
)

// TestPIDFile: what there is of the file is read, at every length it has on its way.
func TestPIDFile(t *testing.T) {
	whole := "4711\n/var/lib/data\n1790000000\n5433\n/run/sock\n*\n   5433001     12345\nready   \n"
	if got := parsePIDFile(whole); got != (PIDFile{PID: 4711, Port: 5433, Socket: "/run/sock", Ready: true}) {
		t.Errorf("%+v", got)
	}
	for n := range len(whole) - len("ready   \n") + 1 {
		if p := parsePIDFile(whole[:n]); p.Ready || p.Starting {
			t.Fatalf("%+v by %q", p, whole[:n])
		}
	}
	for status, want := range map[string]PIDFile{"starting": {Starting: true}, "standby ": {Ready: true}, "stopping": {}} {
		got := parsePIDFile(strings.Replace(whole, "ready   ", status, 1))
		if got.Ready != want.Ready || got.Starting != want.Starting {
			t.Errorf("%s: %+v", status, got)
		}
	}
}

// TestLogOfThisLife: what the log says of an earlier life is nothing about this one.
func TestLogOfThisLife(t *testing.T) {
	s := &Server{o: Options{DataDir: t.TempDir(), StateDir: t.TempDir()}}
	must(t, os.Mkdir(s.data("global"), 0o755))
	must(t, os.WriteFile(s.data("global", "pg_control"), nil, 0o600))
	starved, fatal := "LOG:  waiting for WAL to become available at 0/3000000\n", "FATAL:  invalid primary checkpoint record\n"
	log := func(text string) {
		f, err := os.OpenFile(s.logFile(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		must(t, err)
		_, err = f.WriteString(text)
		must(t, err)
		must(t, f.Close())
	}
	log("starte PostgreSQL 15\n" + fatal + starved) // lc_messages is the user's
	must(t, s.beginLife(asStandby))
	if s.logEndsWith("waiting for WAL") || s.LastWords() != "" {
		t.Errorf("an earlier life's lines are taken for this one's: %q", s.LastWords())
	}
	log(starved + fatal)
	if !s.logEndsWith("waiting for WAL") || s.LastWords() == "" {
		t.Error("this life's lines are not seen")
	}
	must(t, os.WriteFile(s.logFile(), []byte(starved), 0o600)) // cut off at its greatest size
	if !s.logEndsWith("waiting for WAL") {
		t.Error("a log that has begun anew is not read")
	}
}
