package lab_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// idle is an Agent whose members do nothing, and so never become whole. It tells
// when it is asked for that.
type idle struct{ asked chan struct{} }

func (idle) Files(_ *lab.Plan, h lab.Host) (map[string][]byte, error) {
	return map[string][]byte{"idle.conf": []byte("member " + h.Name)}, nil
}

func (idle) Command(_ *lab.Plan, h lab.Host) []string {
	return []string{"sh", "-c", "cat idle.conf; exec sleep 1000"}
}

func (idle) HAProxy(p *lab.Plan) ([]byte, error) {
	return []byte("# by the agent\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\nlisten primary\n  bind " +
		p.App().PrimaryAddress() + "\n"), nil
}

func (i idle) Whole(context.Context, *lab.Lab) (primary, why string) {
	select {
	case i.asked <- struct{}{}:
	default:
	}
	return "", "nobody does anything"
}

// TestAgent puts another program in the members' place: it gets its files, it is
// started, found, killed and started again as the sidecar is, HAProxy has its
// configuration, and the lab waits for what it says.
func TestAgent(t *testing.T) {
	asked := make(chan struct{}, 1)
	l := newLab(t, lab.Options{Members: 2, Agent: idle{asked}})
	ctx := up(t, l)
	for _, m := range l.Plan().Members() {
		if _, err := l.PID(m.Name, lab.Sidecar); err != nil {
			t.Error(err)
		}
		info, err := os.Stat(filepath.Join(m.Dir, "idle.conf"))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("the agent's file of %s has mode %v; it may hold a password", m.Name, info.Mode())
		}
	}
	if _, err := l.PID(l.Plan().App().Name, lab.Proxy); !errors.Is(err, lab.ErrNotRunning) {
		t.Errorf("pgsidecar proxy runs beside another program: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(l.Plan().App().Dir, "haproxy.cfg"))
	if err != nil || !strings.HasPrefix(string(text), "# by the agent") {
		t.Errorf("haproxy.cfg is not the agent's (%v):\n%s", err, text)
	}

	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := l.WaitReady(soon); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "nobody does anything") {
		t.Errorf("waiting for the cluster: %v", err)
	}
	<-asked // by the first
	waited := make(chan error, 1)
	go func() { waited <- l.WaitReady(ctx) }()
	<-asked // now the processes are watched
	if err := l.Kill("n1", lab.Sidecar); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err == nil || ctx.Err() != nil {
		t.Errorf("the lab waits for a program that is gone: %v", err)
	}
	if err := l.Wait(ctx, "n1", lab.Sidecar); err != nil {
		t.Fatal(err)
	}
	if err := l.StartHost(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.PID("n1", lab.Sidecar); err != nil {
		t.Error(err)
	}
}

// TestTwoAgents: a member is run by one program.
func TestTwoAgents(t *testing.T) {
	_, err := lab.New(lab.Options{Dir: filepath.Join(t.TempDir(), "lab"), Binary: "/bin/true", Agent: idle{}})
	if !errors.Is(err, lab.ErrOption) {
		t.Errorf("got %v, want ErrOption", err)
	}
}
