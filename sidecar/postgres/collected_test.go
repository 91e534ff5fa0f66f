package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	asText = "2026-12-01 10:00:00 UTC [7] FATAL:  could not locate a valid checkpoint record\n2026-12-01 10:00:00 UTC [7] HINT:  look\n"
	asCSV  = `2026-12-01 10:00:00.001 UTC,,,7,,692d.7,3,,2026-12-01 10:00:00 UTC,,0,LOG,00000,"a message
of two lines, with ""quotes""",,,,,,,,,"","startup",,0` + "\n" +
		`2026-12-01 10:00:00.002 UTC,,,7,,692d.7,4,,2026-12-01 10:00:00 UTC,,0,FATAL,XX000,"could not locate a valid checkpoint record",,"look",,,,,,,"","startup",,0` + "\n"
	asJSON = `{"timestamp":"2026-12-01 10:00:00.001 UTC","pid":7,"error_severity":"FATAL","message":"could not locate a valid checkpoint record","hint":"look"}` + "\n"
	words  = "FATAL:  could not locate a valid checkpoint record HINT:  look"
)

// serverOfFiles has no server, only folders for its files.
func serverOfFiles(t *testing.T) *Server {
	dir := t.TempDir()
	s := &Server{o: Options{DataDir: filepath.Join(dir, "data"), StateDir: filepath.Join(dir, "state")}}
	for _, d := range []string{s.data("global"), s.data("log"), s.o.StateDir} {
		must(t, os.MkdirAll(d, 0o755))
	}
	must(t, os.WriteFile(s.data("global", "pg_control"), nil, 0o600))
	return s
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	must(t, err)
	_, err = f.WriteString(text)
	must(t, err)
	must(t, f.Close())
}

// TestCollectedWords: why a server did not start is seen in the file that the log collector
// writes, whatever its format, and nothing of what was there before.
func TestCollectedWords(t *testing.T) {
	for format, text := range map[string]string{"stderr": asText, "csvlog": asCSV, "jsonlog": asJSON} {
		for _, dir := range []string{"log", t.TempDir()} {
			s := serverOfFiles(t)
			name := filepath.Join(dir, "postgresql-Tue")
			path := name
			if dir == "log" {
				path = s.data(name)
			}
			appendTo(t, path, text) // of last week, or copied from another member
			must(t, os.WriteFile(s.data("current_logfiles"), []byte(format+" "+name+"\n"), 0o600))
			must(t, s.beginLife(asStandby))
			if got := s.LastWords(); got != "" {
				t.Errorf("%s in %s: of an earlier life: %q", format, dir, got)
			}
			appendTo(t, path, text[:len(text)/2])
			appendTo(t, path, text[len(text)/2:])
			if got := s.LastWords(); got != words {
				t.Errorf("%s in %s: %q", format, dir, got)
			}
			must(t, os.WriteFile(path, []byte(text[:len(text)-3]), 0o600))
			must(t, os.WriteFile(path, []byte(text), 0o600)) // begun anew, as long as before
			appendTo(t, path, text)
			if got := s.LastWords(); got != words {
				t.Errorf("%s in %s, begun anew: %q", format, dir, got)
			}
		}
	}
}

// TestCollectedBounds: nothing that is in the log, or in its place, stops the sidecar; of a
// long log the end is read, which may begin within a message.
func TestCollectedBounds(t *testing.T) {
	s := serverOfFiles(t)
	must(t, s.beginLife(asStandby))
	path := s.data("log", "x.csv")
	list := func(text string) { must(t, os.WriteFile(s.data("current_logfiles"), []byte(text), 0o600)) }
	list("csvlog log/x.csv\n")
	appendTo(t, path, strings.Repeat(`2026-12-01 09:00:00.001 UTC,"broken`+"\n", 5000)+asCSV[40:]+asCSV+`2026-12-01 11:00:00.001 UTC,,,7,,6`)
	if got := s.LastWords(); got != words {
		t.Errorf("a long log: %q", got)
	}
	if n := len(s.endOfCollected(1 << 10)); n > 1<<10 {
		t.Errorf("%d bytes were read", n)
	}
	list("stderr log/x.log\ncsvlog log/x.csv\n")
	appendTo(t, s.data("log", "x.log"), "FATAL:  in plain text\n")
	if got := s.LastWords(); got != "FATAL:  in plain text" {
		t.Errorf("both formats: %q", got)
	}
	must(t, syscall.Mkfifo(s.data("fifo"), 0o600))
	for _, text := range []string{"", "\n", "csvlog", "stderr \n", "other log/x.log\n", "stderr /nowhere\n", "stderr fifo\n", "stderr .\n", strings.Repeat("x", 1<<16)} {
		if list(text); s.LastWords() != "" {
			t.Errorf("%.20q: %q", text, s.LastWords())
		}
	}
	appendTo(t, s.logFile(), "FATAL:  before the collector\n")
	if got := s.LastWords(); got != "FATAL:  before the collector" {
		t.Errorf("its output: %q", got)
	}
	must(t, os.Remove(s.state("logs"))) // as an earlier release left it
	if list("csvlog log/x.csv\n"); string(s.endOfCollected(1<<20)) != "" {
		t.Errorf("a life of which nothing is known: %q", s.endOfCollected(1<<20))
	}
}

// TestCollectedWaits: commits whose wait was cancelled are counted through the rotation of
// the collector's files, each once.
func TestCollectedWaits(t *testing.T) {
	s := serverOfFiles(t)
	line := "WARNING:  " + cancelledWait[0] + " due to user request\n"
	on := func(name string, want uint64) {
		t.Helper()
		must(t, os.WriteFile(s.data("current_logfiles"), fmt.Appendf(nil, "stderr log/%s\n", name), 0o600))
		if n, err := s.CancelledWaits(); n != want || err != nil {
			t.Errorf("in %s: %d, %v; want %d", name, n, err, want)
		}
	}
	appendTo(t, s.data("log", "sat"), line) // of last week
	must(t, s.beginLife(asPrimary))
	appendTo(t, s.data("log", "fri"), line) // before this process asked
	on("fri", 0)
	appendTo(t, s.data("log", "fri"), line+line)
	on("fri", 2)
	appendTo(t, s.data("log", "fri"), line) // and then it was rotated
	appendTo(t, s.data("log", "sat"), line)
	on("sat", 4)
	on("fri", 4)
	on("sat", 4)
	must(t, os.WriteFile(s.data("log", "fri"), []byte(line), 0o600)) // begun anew
	on("fri", 5)
	appendTo(t, s.logFile(), line)
	on("fri", 6)
}

// TestCollector: a server with a log collector that does not start says why.
func TestCollector(t *testing.T) {
	for _, format := range []string{"stderr", "csvlog"} {
		m := newMember(t, "n1", func(o *Options) {
			o.Parameters = map[string]string{"logging_collector": "on", "log_destination": format}
		})
		must(t, m.Init(soon(t)))
		must(t, m.Start(soon(t), StartOptions{Primary: true}))
		m.up()
		must(t, m.Stop(soon(t), false))
		segments, err := filepath.Glob(m.data("pg_wal", "0*"))
		must(t, err)
		for _, segment := range segments {
			must(t, os.Truncate(segment, 0))
		}
		must(t, m.Start(soon(t), StartOptions{Primary: true}))
		<-m.guard.done
		if got := m.LastWords(); !strings.Contains(got, "checkpoint record") {
			t.Errorf("%s: last words %q", format, got)
		}
	}
}
