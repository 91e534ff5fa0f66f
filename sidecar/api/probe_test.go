package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// probedServer is set in the environment of the process that serves
// BenchmarkHealthProbes, so that its processor time is its own.
const probedServer = "PGSIDECAR_TEST_PROBED_SERVER"

// TestProbedServer is that process; it ends with its standard input.
func TestProbedServer(t *testing.T) {
	if os.Getenv(probedServer) == "" {
		t.Skip("only as the server of BenchmarkHealthProbes")
	}
	fmt.Println("serving " + newBench(t, viewOf("n1"), nil).run(t))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// BenchmarkHealthProbes sends 1,000 HEAD /primary a second, each on a connection
// of its own, for b.N seconds, and tells what the server spends on them.
func BenchmarkHealthProbes(b *testing.B) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestProbedServer$", "-test.v")
	cmd.Env = append(os.Environ(), probedServer+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	lines, address := bufio.NewScanner(out), ""
	for address == "" && lines.Scan() {
		_, address, _ = strings.Cut(lines.Text(), "serving ")
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()

	before, began := processorTime(b, cmd.Process.Pid), time.Now()
	took := probe(b, address, 1000*b.N)
	spent, wall := processorTime(b, cmd.Process.Pid)-before, time.Since(began)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(100*spent.Seconds()/wall.Seconds(), "%core")
	b.ReportMetric(float64(len(took))/wall.Seconds(), "probes/s")
}

// probe sends that many probes, one each millisecond, and returns how long they
// took, sorted.
func probe(b *testing.B, address string, n int) []time.Duration {
	took := make([]time.Duration, n)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var group sync.WaitGroup
	for i := range took {
		<-tick.C
		group.Go(func() {
			began := time.Now()
			conn, err := net.Dial("tcp", address)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			buf := make([]byte, 512)
			if _, err := io.WriteString(conn, "HEAD /primary HTTP/1.0\r\n\r\n"); err != nil {
				b.Error(err)
				return
			}
			if n, err := conn.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.0 200") {
				b.Errorf("%q, %v", buf[:n], err)
			}
			took[i] = time.Since(began)
		})
	}
	group.Wait()
	slices.Sort(took)
	return took
}

// processorTime is what a process has spent, in clock ticks of 10 ms (proc(5)).
func processorTime(b *testing.B, pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
