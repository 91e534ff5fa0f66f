package guard_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/postmaster"
)

// TestMain makes this binary play every part: `role guard …` is a guard, `role
// postmaster …` a false server, `role sidecar …` a client that can be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		if err := play(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "role", os.Args[2], err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(m.Run())
}

func play(role string, args []string) error {
	switch role {
	case "guard": // state directory, idle timeout
		idle, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		logger := hclog.New(&hclog.LoggerOptions{Name: "guard", Level: hclog.Debug})
		return guard.Serve(context.Background(), guard.ServeOptions{
			StateDir: args[0], Logger: logger, Version: "test", IdleTimeout: idle,
		})
	case "postmaster": // depth of the tree below, children of each; signals ignored if stubborn
		return playPostmaster(args)
	case "sidecar": // state directory, data directory, lease
		return playSidecar(args)
	case "sentinels": // when they kill, and the command that they kill
		return playSentinels(args)
	}
	return errors.New("no such role")
}

// playPostmaster writes the time of its last sign of life into beat.<pid>, and
// has children in sessions of their own that do the same.
func playPostmaster(args []string) error {
	depth, _ := strconv.Atoi(args[0])
	width, _ := strconv.Atoi(args[1])
	ends := make(chan os.Signal, 1)
	if args[2] == "stubborn" {
		signal.Ignore(syscall.SIGQUIT, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	} else {
		signal.Notify(ends, syscall.SIGQUIT, syscall.SIGINT, syscall.SIGTERM)
	}
	for range width {
		if depth == 0 {
			break
		}
		child := exec.Command("/proc/self/exe", "role", "postmaster", strconv.Itoa(depth-1), args[1], args[2])
		child.Path, _ = os.Executable()
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			return err
		}
	}
	beat, err := os.Create(fmt.Sprintf("beat.%d", os.Getpid()))
	if err != nil {
		return err
	}
	fmt.Println("postmaster", os.Getpid(), "writes to its log")
	tick := time.NewTicker(time.Millisecond)
	for {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], uint64(guard.Now()))
		if _, err := beat.WriteAt(b[:], 0); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ends:
			return nil
		}
	}
}

func playSidecar(args []string) error {
	lease, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	ctx := context.Background()
	c, err := guard.Attach(ctx, guardOptions(args[0]))
	if err != nil {
		return err
	}
	uid, gid := serverUser()
	if err := c.Start(ctx, falsePostmaster(args[1], uid, gid, "stubborn")); err != nil {
		return err
	}
	until := guard.Now().Add(lease)
	if err := c.Lease(ctx, until); err != nil {
		return err
	}
	fmt.Println(int64(until))
	_, err = io.Copy(io.Discard, os.Stdin) // until the test ends
	return err
}

// playSentinels is a guard whose keeper does nothing.
func playSentinels(args []string) error {
	until, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return err
	}
	if err := guard.SetSentinels(ha.Instant(until)); err != nil {
		return err
	}
	if err := exec.Command(args[1], args[2:]...).Start(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until the test ends
	return err
}

func guardOptions(stateDir string) guard.ClientOptions {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return guard.ClientOptions{StateDir: stateDir, Executable: self, Args: []string{"role", "guard", stateDir, "30s"}}
}

// serverUser is whom the server runs as: postgres if the test is root.
func serverUser() (uid, gid uint32) {
	if os.Getuid() != 0 {
		return uint32(os.Getuid()), uint32(os.Getgid())
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		panic(err)
	}
	n, _ := strconv.Atoi(u.Uid)
	g, _ := strconv.Atoi(u.Gid)
	return uint32(n), uint32(g)
}

// falsePostmaster is this binary under the name postgres, put beside the data
// directory by newRig.
func falsePostmaster(dataDir string, uid, gid uint32, manner string) guard.Command {
	return guard.Command{
		Path: filepath.Join(filepath.Dir(dataDir), "postgres"),
		Args: []string{"role", "postmaster", "2", "2", manner},
		Dir:  dataDir, UID: uid, GID: gid,
		Env:     []string{"GOMAXPROCS=1", "GOCOVERDIR=" + os.TempDir()},
		LogFile: filepath.Join(dataDir, "server.log"),
	}
}

// falseProcesses is how many processes falsePostmaster makes.
const falseProcesses = 1 + 2 + 4

// rig is one guard with its directories.
type rig struct {
	*guard.Client
	stateDir, dataDir string
	command           guard.Command
}

func newRig(tb testing.TB, manner string) *rig {
	tb.Helper()
	r := newDirs(tb, manner)
	r.Client = attach(tb, r.stateDir)
	tb.Cleanup(r.end)
	return r
}

// newDirs makes the directories only.
func newDirs(tb testing.TB, manner string) *rig {
	tb.Helper()
	labtest.NeedPrograms(tb)
	dir := tb.TempDir()
	uid, gid := serverUser()
	r := &rig{stateDir: filepath.Join(dir, "state"), dataDir: filepath.Join(dir, "data")}
	must(tb, os.Chmod(filepath.Dir(dir), 0o755))
	must(tb, os.Mkdir(r.dataDir, 0o700))
	must(tb, os.Chown(r.dataDir, int(uid), int(gid)))
	self, err := os.Executable()
	must(tb, err)
	must(tb, copyFile(self, filepath.Join(dir, "postgres")))
	r.command = falsePostmaster(r.dataDir, uid, gid, manner)
	tb.Cleanup(func() {
		if !tb.Failed() {
			return
		}
		for _, name := range []string{filepath.Join(r.stateDir, "guard.log"), r.command.LogFile} {
			b, _ := os.ReadFile(name)
			tb.Logf("end of %s:\n%s", name, b[max(0, len(b)-4000):])
		}
	})
	return r
}

// end leaves nothing behind, whatever the test did.
func (r *rig) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if r.Stop(ctx, true) == nil && r.Shutdown(ctx) == nil {
			break
		}
		// The client is between two guards, or closed.
		r.Close()
		if c, err := guard.Attach(ctx, guardOptions(r.stateDir)); err == nil {
			r.Client = c
		}
	}
	_, _ = guard.Sweep(ctx, r.dataDir)
	_ = r.Close()
}

func attach(tb testing.TB, stateDir string) *guard.Client {
	tb.Helper()
	c, err := guard.Attach(deadline(tb), guardOptions(stateDir))
	must(tb, err)
	return c
}

// start starts the false server and waits until all of it shows life.
func (r *rig) start(tb testing.TB) {
	tb.Helper()
	must(tb, r.Start(deadline(tb), r.command))
	r.awaitBeats(tb)
}

func (r *rig) awaitBeats(tb testing.TB) {
	tb.Helper()
	eventually(tb, "all processes alive", func() bool { return len(r.beats()) >= falseProcesses })
}

// beats returns the last sign of life of each process of the false server.
func (r *rig) beats() map[int]ha.Instant {
	beats := make(map[int]ha.Instant)
	names, _ := filepath.Glob(filepath.Join(r.dataDir, "beat.*"))
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil || len(b) != 8 {
			continue
		}
		pid, _ := strconv.Atoi(strings.TrimPrefix(filepath.Ext(name), "."))
		beats[pid] = ha.Instant(binary.LittleEndian.Uint64(b))
	}
	return beats
}

func (r *rig) lastBeat() (last ha.Instant) {
	for _, at := range r.beats() {
		last = max(last, at)
	}
	return last
}

// leftovers are the processes of the data directory that are not zombies.
func (r *rig) leftovers(tb testing.TB) []int {
	tb.Helper()
	pids, err := postmaster.Leftovers(r.dataDir)
	must(tb, err)
	return pids
}

func (r *rig) awaitStatus(tb testing.TB, what string, cond func(guard.Status) bool) guard.Status {
	tb.Helper()
	eventually(tb, what, func() bool { return cond(r.Status()) })
	return r.Status()
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func deadline(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// eventually waits for what no event tells the test.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	labtest.Until(tb, 20*time.Second, what, cond)
}

func receive[T any](tb testing.TB, c <-chan T) (v T) {
	tb.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		tb.Fatal("nothing happened within 20 s")
	}
	return v
}
