package sidecar_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// scaleProcess is this program once more, for one part of the benchmark.
type scaleProcess struct {
	cmd   *exec.Cmd
	lines chan string // what it prints; closed at its end
}

// start starts it; it is killed with the benchmark.
func (f *fleet) start(test, env string) *scaleProcess {
	p := &scaleProcess{cmd: exec.Command(os.Args[0], "-test.run", "^"+test+"$", "-test.timeout", "1h"), lines: make(chan string)}
	p.cmd.Env = append(os.Environ(), env)
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		f.b.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			select {
			case p.lines <- lines.Text():
			case <-stop:
			}
		}
	}()
	f.b.Cleanup(func() {
		close(stop)
		p.cmd.Process.Kill() //nolint:errcheck // it has ended
		<-ended
		p.cmd.Wait() //nolint:errcheck // it was killed
	})
	return p
}

// scaleProxy is the process that follows all clusters, and what it has seen: of each
// cluster and term, when the catalog and the record led to the new primary.
type scaleProxy struct {
	*scaleProcess
	b    testing.TB
	mu   sync.Mutex
	seen map[[2]string]map[string]time.Time // what and term; by cluster
	news chan struct{}                      // room for one: something was seen
}

// follow starts it.
func (f *fleet) follow(n int) *scaleProxy {
	p := &scaleProxy{b: f.b, seen: map[[2]string]map[string]time.Time{}, news: make(chan struct{}, 1)}
	p.scaleProcess = f.start("TestScaleProxy", "SCALEPROXY="+f.addresses[0]+" "+strconv.Itoa(n))
	go p.read()
	return p
}

// read takes what the process prints: what, cluster, term, and when, in nanoseconds.
func (p *scaleProxy) read() {
	for line := range p.lines {
		word := strings.Fields(line)
		if len(word) != 4 || word[0] != "tag" && word[0] != "record" {
			continue
		}
		at, err := strconv.ParseInt(word[3], 10, 64)
		if err != nil {
			continue
		}
		p.mu.Lock()
		key := [2]string{word[0], word[2]}
		if p.seen[key] == nil {
			p.seen[key] = map[string]time.Time{}
		}
		p.seen[key][word[1]] = time.Unix(0, at)
		p.mu.Unlock()
		select {
		case p.news <- struct{}{}:
		default:
		}
	}
}

// await waits until tags and records of a term were seen of so many clusters, and
// returns when the last tag was.
func (p *scaleProxy) await(term, n int) time.Time {
	p.b.Helper()
	limit := time.NewTimer(scaleLimit)
	defer limit.Stop()
	for {
		tags, last := p.last("tag", term)
		records, _ := p.last("record", term)
		if tags >= n && records >= n {
			return last
		}
		select {
		case <-p.news:
		case <-limit.C:
			p.b.Fatalf("of %d clusters %d tags and %d records of term %d were seen", n, tags, records, term)
		}
	}
}

func (p *scaleProxy) lastRecord(term, _ int) time.Time {
	_, last := p.last("record", term)
	return last
}

func (p *scaleProxy) last(what string, term int) (n int, last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.seen[[2]string{what, strconv.Itoa(term)}]
	for _, at := range all {
		if at.After(last) {
			last = at
		}
	}
	return len(all), last
}

// TestScaleProxy is the process that BenchmarkScale starts to follow all clusters.
func TestScaleProxy(t *testing.T) {
	address, number, is := strings.Cut(os.Getenv("SCALEPROXY"), " ")
	if !is {
		t.Skip("it is a part of BenchmarkScale")
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	var print sync.Mutex
	say := func(what, cluster string, term any) {
		print.Lock()
		defer print.Unlock()
		fmt.Println(what, cluster, term, time.Now().UnixNano())
	}
	var all sync.WaitGroup
	for i := range n {
		client, err := sessions.New(sessions.Options{Addresses: []string{address}, Cluster: scaleName(i), Member: "proxy"})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		tag, record := "", uint64(0)
		all.Go(func() {
			client.Follow(t.Context(), func() { //nolint:errcheck // it ends with the process
				mu.Lock()
				defer mu.Unlock()
				v := client.View()
				if term := v.Primary().Meta["term"]; term != "" && term != tag {
					tag = term
					say("tag", scaleName(i), term)
				}
				if r := v.Consul.Record; r.Phase == ha.PhaseLeading && r.Term != record {
					record = r.Term
					say("record", scaleName(i), record)
				}
			})
		})
	}
	all.Wait()
}
