package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/proxy"
)

// told is a log that is read while it is written.
type told struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *told) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *told) has(words string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), words)
}

// TestReload: SIGHUP has the proxy read its configuration again; one with a fault, or that
// cannot be run, leaves it as it is, and says so.
func TestReload(t *testing.T) {
	var mu sync.Mutex
	now, fault, listen := "orders", error(nil), ""
	set := func(cluster string, err error, at ...string) {
		mu.Lock()
		defer mu.Unlock()
		now, fault, listen = cluster, err, strings.Join(at, "")
	}
	load := func() (*config.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		if fault != nil {
			return nil, fault
		}
		cfg := &config.Config{Cluster: now, Member: "app"}
		cfg.API.Listen = listen
		cfg.Service.Name, cfg.Consul.Addresses, cfg.Consul.SessionTTL = now, []string{"127.0.0.1:1"}, 10*time.Second // nobody is there
		return cfg, nil
	}
	log := new(told)
	logger := func(*config.Config) hclog.Logger { return hclog.New(&hclog.LoggerOptions{Output: log}) }
	reload := make(chan os.Signal)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	ended := make(chan error, 1)
	go func() { ended <- proxy.RunReloading(ctx, reload, load, logger) }()
	await := func(words string) {
		t.Helper()
		for late := time.Now().Add(20 * time.Second); !log.has(words); {
			select {
			case err := <-ended:
				t.Fatalf("it has ended before it said %q: %v", words, err)
			case <-time.After(5 * time.Millisecond):
			}
			if time.Now().After(late) {
				t.Fatalf("it does not say %q", words)
			}
		}
	}
	await("following the cluster: cluster=orders")
	set("", errors.New("proxy.hcl:3: unknown key"))
	reload <- syscall.SIGHUP
	await(`the old one holds: error="proxy.hcl:3: unknown key"`)
	set("billing", nil)
	reload <- syscall.SIGHUP
	await("following the cluster: cluster=billing")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	set("invoices", nil, taken.Addr().String())
	reload <- syscall.SIGHUP
	await("cannot be run; the one before is used again")
	set("receipts", nil)
	reload <- syscall.SIGHUP
	await("following the cluster: cluster=receipts")
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	set("", os.ErrNotExist)
	if err := proxy.RunReloading(t.Context(), reload, load, logger); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a configuration that is not there: %v", err)
	}
}
