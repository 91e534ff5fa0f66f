package lab_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// TestMain is also the program that TestKilled kills: a lab that comes up and
// stays.
func TestMain(m *testing.M) {
	if dir := os.Getenv("LAB_TEST_UP"); dir != "" {
		l, err := lab.New(lab.Options{Dir: dir, Members: 1, Isolated: os.Getenv("LAB_TEST_ISOLATED") != ""})
		if err == nil {
			err = l.Up(context.Background(), func(what string) { println(what) })
		}
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
		println("up")
		select {}
	}
	os.Exit(m.Run())
}

func newLab(t *testing.T, o lab.Options) *lab.Lab {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "lab")
	}
	labtest.NeedPrograms(t)
	l, err := lab.New(o)
	if errors.Is(err, programs.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// up brings a lab up, and takes it down after the test.
func up(t *testing.T, l *lab.Lab) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	t.Cleanup(func() { down(t, l) })
	if err := l.Up(ctx, func(what string) { t.Log(what) }); err != nil {
		t.Fatal(err)
	}
	return ctx
}

func down(t *testing.T, l *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := l.Down(ctx); err != nil {
		t.Errorf("down: %v", err)
	}
	nothingLeft(t, l.Plan())
}

// nothingLeft looks for what the lab would leave: its folder, its processes
// (by the mark in their environment), its namespaces.
func nothingLeft(t *testing.T, p *lab.Plan) {
	t.Helper()
	if _, err := os.Stat(p.Dir); err == nil {
		t.Errorf("folder %s is left", p.Dir)
	}
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range environs {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), lab.EnvMark+"="+p.ID+"/") {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			t.Errorf("process is left: %s %q", path, line)
		}
	}
	names, err := filepath.Glob("/run/netns/pgl" + p.ID + "*")
	if err != nil || len(names) > 0 {
		t.Errorf("namespaces are left: %v %v", names, err)
	}
}

func modes(t *testing.T, test func(t *testing.T, isolated bool)) {
	t.Run("loopback", func(t *testing.T) { test(t, false) })
	t.Run("isolated", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("network namespaces need root")
		}
		test(t, true)
	})
}

func TestUpAndDown(t *testing.T) {
	modes(t, func(t *testing.T, isolated bool) {
		l := newLab(t, lab.Options{Members: 2, Isolated: isolated, PgBouncer: true})
		ctx := up(t, l)
		status, err := l.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range status.Hosts {
			if h.PIDs[lab.Consul] == 0 {
				t.Errorf("no Consul on %s", h.Name)
			}
		}
		app := l.Plan().App()
		for _, m := range l.Plan().Members() {
			if _, err := config.Load(filepath.Join(m.Dir, "pg.hcl"), config.OSEnvironment()); err != nil {
				t.Error(err)
			}
		}
		if _, err := config.LoadProxy(filepath.Join(app.Dir, "proxy.hcl"), config.OSEnvironment()); err != nil {
			t.Error(err)
		}
		if err := l.Kill(app.Name, lab.HAProxy); err != nil {
			t.Fatal(err)
		}
		if err := l.Wait(ctx, app.Name, lab.HAProxy); err != nil {
			t.Fatal(err)
		}
		if err := l.Kill(app.Name, lab.HAProxy); !errors.Is(err, lab.ErrNotRunning) {
			t.Errorf("second kill: %v, want ErrNotRunning", err)
		}
		if err := l.KillHost(ctx, app.Name); err != nil {
			t.Fatal(err)
		}
		if err := l.StartHost(ctx, app.Name); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSideBySide: labs know nothing of each other.
func TestSideBySide(t *testing.T) {
	modes(t, func(t *testing.T, isolated bool) {
		first := newLab(t, lab.Options{Members: 1, Isolated: isolated})
		ctx := up(t, first)
		second := newLab(t, lab.Options{Members: 1, Isolated: isolated})
		up(t, second)
		down(t, first)
		status, err := second.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range status.Hosts {
			if h.PIDs[lab.Consul] == 0 {
				t.Errorf("Consul on %s went with another lab", h.Name)
			}
		}
	})
}

func TestThreeConsulServers(t *testing.T) {
	l := newLab(t, lab.Options{Members: 1, ConsulServers: 3})
	up(t, l)
}

// TestKilled kills the program that brought a lab up, and looks whether down
// and the next up remove what it left.
func TestKilled(t *testing.T) {
	modes(t, func(t *testing.T, isolated bool) {
		probe := newLab(t, lab.Options{Members: 1, Isolated: isolated})
		dir := probe.Plan().Dir
		var killed []*lab.Plan
		for _, after := range []string{"starting Consul", "up"} {
			runUntilKilled(t, dir, after, isolated)
			left, err := lab.Open(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			killed = append(killed, left.Plan())
		}
		// The second run above has removed the first; a third removes the second.
		l := newLab(t, lab.Options{Dir: dir, Members: 1, Isolated: isolated})
		ctx := up(t, l)
		if _, err := l.Status(ctx); err != nil {
			t.Fatal(err)
		}
		for _, p := range killed {
			gone := *p
			gone.Dir = filepath.Join(dir, "no-such-folder")
			nothingLeft(t, &gone)
		}
	})
}

func runUntilKilled(t *testing.T, dir, after string, isolated bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LAB_TEST_UP="+dir)
	if isolated {
		cmd.Env = append(cmd.Env, "LAB_TEST_ISOLATED=1")
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(said.String(), after+"\n") {
		n, err := out.Read(buffer)
		said.Write(buffer[:n])
		if err != nil {
			t.Fatalf("the lab ended: %s", said.String())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as it should be
}

func TestRefusals(t *testing.T) {
	notEmpty := t.TempDir()
	precious := filepath.Join(notEmpty, "precious")
	if err := os.WriteFile(precious, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, lab.Options{Dir: notEmpty})
	if err := l.Up(t.Context(), func(string) {}); !errors.Is(err, lab.ErrInUse) {
		t.Errorf("folder with something else: %v, want ErrInUse", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("the refused folder was changed: %v", err)
	}
	for name, o := range map[string]lab.Options{
		"no folder":       {},
		"two servers":     {Dir: "x", ConsulServers: 2},
		"too many":        {Dir: "x", Members: 100},
		"negative":        {Dir: "x", Members: -1},
		"unknown mode":    {Dir: "x", Mode: "sometimes"},
		"three sites":     {Dir: "x", Sites: 3, Isolated: true},
		"two on loopback": {Dir: "x", Sites: 2},
		"unwitnessed one": {Dir: "x", Unwitnessed: true},
		"missing program": {Dir: "x", Binary: "/nonexistent/pgsidecar"},
	} {
		if _, err := lab.New(o); !errors.Is(err, lab.ErrOption) && !errors.Is(err, programs.ErrMissing) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := lab.Open(t.TempDir(), nil); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("open an empty folder: %v", err)
	}
}

// TestCuts cuts links of an isolated lab and looks who can reach whom.
func TestCuts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l := newLab(t, lab.Options{Members: 2, Isolated: true})
	ctx := up(t, l)
	n1, err := l.Plan().Host("n1")
	if err != nil {
		t.Fatal(err)
	}
	reach := func(from string, want bool) bool {
		dial, err := l.Dialer(from)
		if err != nil {
			t.Fatal(err)
		}
		// ARP asks again after a second.
		patience := 300 * time.Millisecond
		if want {
			patience = 5 * time.Second
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		conn, err := dial(ctx, "tcp", n1.HTTPAddress())
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}
	steps := []struct {
		name    string
		do      func() error
		n2, app bool
	}{
		{"whole", func() error { return nil }, true, true},
		{"n1 to n2 lost", func() error { return l.Cut(ctx, lab.Way{From: "n1", To: "n2"}) }, false, true},
		{"healed", func() error { return l.Heal(ctx, lab.Way{From: "n1", To: "n2"}) }, true, true},
		{"cut from app", func() error { return l.Cut(ctx, lab.Way{From: "app", To: "n1"}, lab.Way{From: "n1", To: "app"}) }, true, false},
		{"cable out", func() error { return l.LinkDown(ctx, "n1") }, false, false},
		{"healed all", func() error { return l.HealAll(ctx) }, true, true},
		{"everything lost", func() error { return l.Lose(ctx, "n1", 1) }, false, false},
		{"healed again", func() error { return l.HealAll(ctx) }, true, true},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if got := reach("n2", s.n2); got != s.n2 {
			t.Errorf("%s: n2 reaches n1: %t, want %t", s.name, got, s.n2)
		}
		if got := reach("app", s.app); got != s.app {
			t.Errorf("%s: app reaches n1: %t, want %t", s.name, got, s.app)
		}
	}
	// Nothing of this is reachable from outside, whoever has that address there.
	outside := &http.Client{Timeout: 500 * time.Millisecond}
	if answer, err := outside.Get("http://" + n1.HTTPAddress() + "/v1/agent/self"); err == nil {
		defer answer.Body.Close()
		if b, err := io.ReadAll(answer.Body); err == nil && strings.Contains(string(b), `"NodeName":"n1"`) {
			t.Error("the isolated lab is reachable from outside")
		}
	}
	const delay = 60 * time.Millisecond
	if err := l.Delay(ctx, "n1", delay); err != nil {
		t.Fatal(err)
	}
	dial, err := l.Dialer("n2")
	if err != nil {
		t.Fatal(err)
	}
	// A body of many segments, so that segmentation offload is in play.
	store, err := l.ConsulClient("n1")
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("x"), 64<<10)
	if _, err := store.KV().Put(&api.KVPair{Key: "body", Value: body}, new(api.WriteOptions).WithContext(ctx)); err != nil {
		t.Fatal(err)
	}
	get := func(bound time.Duration) time.Duration {
		client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
		watch := labtest.StartStopwatch(t)
		answer, err := client.Get("http://" + n1.HTTPAddress() + "/v1/kv/body?raw&stale")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if b, err := io.ReadAll(answer.Body); err != nil || len(b) != len(body) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		return watch.Within(bound, "a request")
	}
	// ARP, connecting and the answer: at least two ways from n1.
	if took := get(20 * delay); took < 2*delay {
		t.Errorf("a request took %v, with %v of delay", took, delay)
	}
	if err := l.HealAll(ctx); err != nil {
		t.Fatal(err)
	}
	get(delay)
}
