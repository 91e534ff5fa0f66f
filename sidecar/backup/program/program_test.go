package program

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func me(t testing.TB) User {
	t.Helper()
	u, err := Lookup("")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestRun: what a program says, how it ends, and what it is given.
func TestRun(t *testing.T) {
	t.Setenv("PGPASSWORD", "hunter2")
	var lines []string
	c := Command{User: me(t), Env: []string{"EXTRA=1"}, Background: true, Line: func(line string) { lines = append(lines, line) },
		Args: []string{"/bin/sh", "-c", "echo one; echo; printf 'two\rthree'; echo $PGPASSWORD$EXTRA$TZ"}}
	if out, err := c.Run(t.Context()); err != nil || out != "" || strings.Join(lines, ",") != "one,two,three1UTC" {
		t.Errorf("got %q, %q, %v", out, lines, err)
	}
	c = Command{User: me(t), Args: []string{"/bin/sh", "-c", "echo output; echo oh >&2; echo no >&2; exit 7"}}
	out, err := c.Run(t.Context())
	var f *Failed
	if !errors.As(err, &f) || f.Code != 7 || f.Said != "oh; no" || out != "output\n" || err.Error() != "sh: oh; no" {
		t.Errorf("got %q, %+v", out, err)
	}
	c.Args = []string{"/nonexistent/program"}
	if _, err := c.Run(t.Context()); !errors.Is(err, ErrMissing) {
		t.Errorf("no program: %v", err)
	}
}

// TestRunEnds kills the program with all that it has started.
func TestRunEnds(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pid")
	because := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	c := Command{User: me(t), Args: []string{"/bin/sh", "-c", "sleep 100 & echo $! > " + pids + "; echo ready; wait"},
		Line: func(string) { cancel(because) }}
	began := time.Now()
	if _, err := c.Run(ctx); !errors.Is(err, because) || time.Since(began) > 30*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	content, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil; <-ticker.C {
		if stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); strings.Contains(string(stat), ") Z ") {
			return // dead; its new parent has not waited for it yet
		}
		if time.Now().After(end) {
			t.Fatal("what the program had started lives on")
		}
	}
}

// FuzzQuote: a shell gives back the words.
func FuzzQuote(f *testing.F) {
	f.Add("plain", "")
	f.Add("it's", `$(rm -rf /) "x" \ ; & | > *`)
	f.Add("a\nb", "`x` #")
	f.Add("ä", "~/x %p")
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsRune(a+b, 0) {
			t.Skip()
		}
		out, err := exec.Command("/bin/sh", "-c", `printf '%s\0' `+Quote(a, b)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Split(string(out), "\x00"); !slices.Equal(got, []string{a, b, ""}) {
			t.Errorf("%q and %q became %q", a, b, got)
		}
	})
}
