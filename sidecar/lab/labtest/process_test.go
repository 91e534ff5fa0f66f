package labtest

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// failure runs what is to fail, and returns what the test would have said.
func failure(t *testing.T, run func(testing.TB)) string {
	t.Helper()
	r, done := &recorded{TB: t}, make(chan struct{})
	go func() {
		defer close(done)
		run(r)
	}()
	<-done
	return r.said
}

// TestAwaitEnded: a program that ends fails the test at once, in its own words.
func TestAwaitEnded(t *testing.T) {
	begun := time.Now()
	said := failure(t, func(t testing.TB) {
		p := Start(t, exec.Command("/bin/sh", "-c", "echo flag is not known; exit 3"))
		p.Await(time.Hour, "the moon", func() error { return errors.New("still down") })
	})
	if !strings.Contains(said, "sh ended (exit status 3) before the moon") || !strings.Contains(said, "flag is not known") {
		t.Errorf("the test says %q", said)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("it says so after %v", took)
	}
}

// TestKill: with a program ends what it has started.
func TestKill(t *testing.T) {
	p := Start(t, exec.Command("/bin/sh", "-c", "sleep 600 & echo begun; wait"))
	p.Await(time.Minute, "its start", func() error {
		if !strings.Contains(p.Output(), "begun") {
			return errNotYet
		}
		return nil
	})
	p.Kill()
	select {
	case <-p.Ended():
	default:
		t.Error("it is there still")
	}
}

// TestConsulRefuses: an agent that refuses its configuration fails the test at
// once; waiting for it in vain once hid the reason.
func TestConsulRefuses(t *testing.T) {
	begun := time.Now()
	NeedPrograms(t)
	said := failure(t, func(t testing.TB) { StartConsul(t, ConsulOptions{Config: "no_such_setting = 1"}) })
	if !strings.Contains(said, "consul ended") || !strings.Contains(said, "no_such_setting") {
		t.Errorf("the test says %q", said)
	}
	if took := time.Since(begun); took > leaderWithin/2 {
		t.Errorf("it says so after %v", took)
	}
}

// TestStartConsul: it takes writes, forgets them or keeps them, and a client
// joins it. A new leader has not read all of its log yet, and answers a plain read
// with what it has: so what was kept is read with consistent.
func TestStartConsul(t *testing.T) {
	NeedPrograms(t)
	kept := StartConsul(t, ConsulOptions{Name: "server", Dir: t.TempDir()})
	host := StartConsul(t, ConsulOptions{Name: "host", Dir: t.TempDir(), Join: kept.Serf})
	for _, c := range []*Consul{kept, host, StartConsul(t, ConsulOptions{})} {
		Eventually(t, leaderWithin, "a write", func() error { return c.Put(t, "/v1/kv/some", "text") })
	}
	kept.Kill()
	kept.Start(t)
	if answer, err := kept.ask(t, "GET", "/v1/kv/some?raw&consistent", nil); err != nil || answer != "text" {
		t.Errorf("after its restart it answers %q, %v", answer, err)
	}
}
