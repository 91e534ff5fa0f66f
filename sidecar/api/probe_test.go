package api_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These are set in the environment of the two processes of
// BenchmarkHealthProbes: the server, so that its processor time is its own, and
// the client, so that what it is held up by is not the server's.
const (
	probedServer  = "PGSIDECAR_TEST_PROBED_SERVER"
	probingClient = "PGSIDECAR_TEST_PROBING_CLIENT" // the server's address
	probeCount    = "PGSIDECAR_TEST_PROBES"
)

// TestProbedServer is the server; it ends with its standard input.
func TestProbedServer(t *testing.T) {
	if os.Getenv(probedServer) == "" {
		t.Skip("only as the server of BenchmarkHealthProbes")
	}
	fmt.Println("serving " + newBench(t, viewOf("n1"), nil).run(t))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// probed is what the client prints. Times are in nanoseconds.
type probed struct{ Median, P99, Worst time.Duration }

// TestProbingClient is the client.
func TestProbingClient(t *testing.T) {
	address := os.Getenv(probingClient)
	if address == "" {
		t.Skip("only as the client of BenchmarkHealthProbes")
	}
	n, err := strconv.Atoi(os.Getenv(probeCount))
	if err != nil {
		t.Fatal(err)
	}
	took := probe(t, address, n)
	text, err := json.Marshal(probed{took[len(took)/2], took[len(took)*99/100], took[len(took)-1]})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("probed %s\n", text)
}

// BenchmarkHealthProbes sends 1,000 HEAD /primary a second, each on a connection
// of its own as HAProxy does, for b.N seconds, and tells what the server spends
// on them and how long each takes, from connect to the status line.
func BenchmarkHealthProbes(b *testing.B) {
	server, in, address := startProcess(b, "TestProbedServer", "serving ", probedServer+"=1")
	defer func() { in.Close(); _ = server.Wait() }()

	before, began := processorTime(b, server.Process.Pid), time.Now()
	client, _, line := startProcess(b, "TestProbingClient", "probed ", probingClient+"="+address, probeCount+"="+strconv.Itoa(1000*b.N))
	spent, wall := processorTime(b, server.Process.Pid)-before, time.Since(began)
	if err := client.Wait(); err != nil {
		b.Fatal(err)
	}
	var took probed
	if err := json.Unmarshal([]byte(line), &took); err != nil {
		b.Fatalf("the client says %q: %v", line, err)
	}
	b.ReportMetric(float64(took.Median.Microseconds()), "p50-µs")
	b.ReportMetric(float64(took.P99.Microseconds()), "p99-µs")
	b.ReportMetric(float64(took.Worst.Microseconds()), "worst-µs")
	b.ReportMetric(100*spent.Seconds()/wall.Seconds(), "%core")
	b.ReportMetric(float64(1000*b.N)/wall.Seconds(), "probes/s")
	b.ReportMetric(0, "ns/op")
}

// startProcess runs a test of this binary as a process, and waits for its line
// that begins so; it returns the rest of that.
func startProcess(b *testing.B, test, prefix string, env ...string) (*exec.Cmd, io.Closer, string) {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), env...)
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
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), prefix); found {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return cmd, in, rest
		}
	}
	b.Fatalf("%s ended without a line %q: %v", test, prefix, cmd.Wait())
	return nil, nil, ""
}

// probers is how many threads probe in turn: each has a while until its next
// turn, so that a slow answer holds up no other probe.
const probers = 32

// probe sends that many probes, one each millisecond, by blocking system calls
// of threads of their own, and returns how long they took, sorted.
func probe(t *testing.T, address string, n int) []time.Duration {
	runtime.GOMAXPROCS(probers + 4) // no thread waits for another after a system call
	tcp, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	to := &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}
	var begin unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &begin); err != nil {
		t.Fatal(err)
	}
	took := make([]time.Duration, n)
	var group sync.WaitGroup
	for first := range probers {
		group.Go(func() {
			runtime.LockOSThread()
			for i := first; i < n; i += probers {
				at := unix.NsecToTimespec(begin.Nano() + int64(i+10)*int64(time.Millisecond))
				for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil) == unix.EINTR {
				}
				var err error
				if took[i], err = probeOnce(to); err != nil {
					t.Errorf("probe %d: %v", i, err)
					return
				}
			}
		})
	}
	group.Wait()
	slices.Sort(took)
	return took
}

func probeOnce(to unix.Sockaddr) (time.Duration, error) {
	began := time.Now()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, to); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	if _, err := unix.Write(fd, []byte("HEAD /primary HTTP/1.0\r\n\r\n")); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	var answer [512]byte
	m, err := unix.Read(fd, answer[:])
	if err != nil || !strings.HasPrefix(string(answer[:m]), "HTTP/1.0 200 ") {
		return 0, fmt.Errorf("the answer is %q, %w", answer[:m], err)
	}
	return time.Since(began), nil
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
