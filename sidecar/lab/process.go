package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// EnvMark is the environment variable that marks the processes of a lab: its
// value is the lab's id, a slash, and the host's name.
const EnvMark = "PGSIDECAR_LAB"

// Program is a program that runs on a host.
type Program string

// The programs of a lab.
const (
	Consul    Program = "consul"
	Sidecar   Program = "sidecar" // pgsidecar run, or an Agent's program in its place
	Guard     Program = "guard"   // started by the sidecar
	Postgres  Program = "postgres"
	HAProxy   Program = "haproxy"
	Proxy     Program = "proxy" // pgsidecar proxy
	PgBouncer Program = "pgbouncer"
)

// ErrNotRunning is returned when the program to be signalled does not run.
var ErrNotRunning = errors.New("not running")

// process is one process as /proc shows it, held by a pidfd so that a signal
// cannot hit another that got its pid.
type process struct {
	pid     int
	fd      int
	started uint64
}

// open holds a process. It returns fs.ErrNotExist if there is none.
func open(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, fs.ErrNotExist)
	}
	started, err := startTime(pid)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &process{pid: pid, fd: fd, started: started}, nil
}

func (p *process) close() { unix.Close(p.fd) }

// signal sends a signal. That the process is gone already is no error.
func (p *process) signal(sig syscall.Signal) error {
	err := unix.PidfdSendSignal(p.fd, sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// wait returns when the process has exited, or when the context ends.
func (p *process) wait(ctx context.Context) error {
	for {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		// The exit is an event; the 20 ms are how soon the context is noticed.
		n, err := unix.Poll(fds, 20)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for process %d: %w", p.pid, err)
		case ctx.Err() != nil:
			return fmt.Errorf("wait for process %d: %w", p.pid, ctx.Err())
		}
	}
}

// startTime reads field 22 of /proc/PID/stat.
func startTime(pid int) (uint64, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// parentOf reads field 4 of /proc/PID/stat.
func parentOf(pid int) (int, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(fields[1])
}

// stat reads the fields of /proc/PID/stat from the third on. It returns
// fs.ErrNotExist for a process that is gone or a zombie.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, fmt.Errorf("look at process %d: %w", pid, fs.ErrNotExist)
	}
	// The second field is the name in parentheses, and may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return nil, fmt.Errorf("look at process %d: %w", pid, fs.ErrNotExist)
	}
	return fields, nil
}

// belonging returns what tells whether a process is of the host. With a network
// namespace of its own that is all there is to ask, and cheap; drills look
// through all processes in the middle of a fault. Else it is the mark, or, for
// the guard and PostgreSQL, the folder that they work in.
func (l *Lab) belonging(h Host) func(pid int) bool {
	if h.Namespace != "" {
		if link, err := namespaceLink(h.Namespace); err == nil {
			return func(pid int) bool {
				here, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net")
				return err == nil && here == link
			}
		}
	}
	mark := []byte(EnvMark + "=" + l.plan.ID + "/" + h.Name + "\x00")
	inner := append([]byte{0}, mark...)
	return func(pid int) bool {
		env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if err == nil && (bytes.HasPrefix(env, mark) || bytes.Contains(env, inner)) {
			return true
		}
		return pgsidecarOf(pid, h) || postgresOf(pid, h)
	}
}

// pgsidecarOf reports whether a process is pgsidecar on the host: a guard's
// environment has no mark, as it inherits next to nothing, and that of the others
// is not to be read by an ordinary user; but each is told a file or folder of the
// host's.
func pgsidecarOf(pid int, h Host) bool { return commandOf(pid, h, "guard", "run", "proxy") }

// commandOf reports whether a process is one of these commands of pgsidecar, with
// a file or folder of the host's.
func commandOf(pid int, h Host, commands ...string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	words := bytes.Split(line, []byte{0})
	if err != nil || len(words) < 2 || !slices.Contains(commands, string(words[1])) {
		return false
	}
	return slices.ContainsFunc(words[2:], func(word []byte) bool { return bytes.Contains(word, []byte(h.Dir+"/")) })
}

// postgresOf reports whether a process is of the PostgreSQL server in a
// member's data directory. PostgreSQL writes its title over its environment, so
// the mark is not there; and somebody's shell in that directory is not of the
// lab, so the program is looked at too: by its name alone, as an upgrade brings another.
func postgresOf(pid int, h Host) bool {
	if h.Kind != KindMember {
		return false
	}
	proc := fmt.Sprintf("/proc/%d", pid)
	cwd, err := os.Readlink(proc + "/cwd")
	if err != nil || strings.TrimSuffix(cwd, " (deleted)") != h.DataDir() {
		return false
	}
	exe, err := os.Readlink(proc + "/exe")
	return err == nil && filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == "postgres"
}

// processes holds all processes of the host. The caller closes them.
func (l *Lab) processes(h Host) ([]*process, error) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	belongs := l.belonging(h)
	var found []*process
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil || pid == os.Getpid() || !belongs(pid) {
			continue
		}
		if p := hold(pid, belongs); p != nil {
			found = append(found, p)
		}
	}
	return found, nil
}

// hold opens a process that is what is said of it; nil: there is none, or by now
// another has its pid.
func hold(pid int, is func(pid int) bool) *process {
	p, err := open(pid)
	if err != nil {
		return nil
	}
	if !is(pid) {
		p.close()
		return nil
	}
	return p
}

// find holds the one process of a program on a host. It returns ErrNotRunning
// if there is none. The caller closes it.
func (l *Lab) find(h Host, program Program) (*process, error) {
	missing := fmt.Errorf("%s on %s: %w", program, h.Name, ErrNotRunning)
	if program == Postgres {
		return l.findPostmaster(h, missing)
	}
	if program == Guard {
		return l.findGuard(h, missing)
	}
	entries, err := readJournal(l.plan.Dir)
	if err != nil {
		return nil, err
	}
	var last entry
	for _, e := range entries {
		if e.What == madeProcess && e.Host == h.Name && e.Name == string(program) && e.PID != 0 {
			last = e
		}
	}
	if last.PID == 0 {
		return nil, missing
	}
	p, err := open(last.PID)
	if err != nil {
		return nil, missing
	}
	if p.started != last.Started {
		p.close()
		return nil, missing
	}
	return p, nil
}

// findPostmaster reads the first line of postmaster.pid.
func (l *Lab) findPostmaster(h Host, missing error) (*process, error) {
	b, err := os.ReadFile(filepath.Join(h.DataDir(), "postmaster.pid"))
	if err != nil {
		return nil, missing
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 {
		return nil, missing
	}
	p := hold(pid, l.belonging(h))
	if p == nil {
		return nil, missing
	}
	return p, nil
}

// findGuard looks at the postmaster's parent, and only where no server runs
// through all processes: it is called in the middle of a drill.
func (l *Lab) findGuard(h Host, missing error) (*process, error) {
	if postmaster, err := l.findPostmaster(h, missing); err == nil {
		parent, err := parentOf(postmaster.pid)
		postmaster.close()
		if err == nil {
			if p := hold(parent, func(pid int) bool { return commandOf(pid, h, "guard") }); p != nil {
				return p, nil
			}
		}
	}
	all, err := l.processes(h)
	if err != nil {
		return nil, err
	}
	var guard *process
	for _, p := range all {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		words := bytes.Split(line, []byte{0})
		if err == nil && guard == nil && len(words) > 1 && string(words[1]) == "guard" {
			guard = p
			continue
		}
		p.close()
	}
	if guard == nil {
		return nil, missing
	}
	return guard, nil
}

// PID returns the process id of a program on a host, or ErrNotRunning.
func (l *Lab) PID(host string, program Program) (int, error) {
	h, err := l.plan.Host(host)
	if err != nil {
		return 0, err
	}
	p, err := l.find(h, program)
	if err != nil {
		return 0, err
	}
	defer p.close()
	return p.pid, nil
}

// Signal sends a signal to a program on a host. It returns ErrNotRunning.
func (l *Lab) Signal(host string, program Program, sig syscall.Signal) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	p, err := l.find(h, program)
	if err != nil {
		return err
	}
	defer p.close()
	return p.signal(sig)
}

// SignalPostgres sends a signal to every process of a member's PostgreSQL: the
// postmaster first, so that it starts no others meanwhile.
func (l *Lab) SignalPostgres(host string, sig syscall.Signal) error {
	if err := l.Signal(host, Postgres, sig); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	all, err := l.processes(h)
	for _, p := range all {
		if postgresOf(p.pid, h) {
			err = errors.Join(err, p.signal(sig))
		}
		p.close()
	}
	return err
}

// Kill sends SIGKILL to programs of a host, all of them found before the first
// is hit, so that they go together. It returns ErrNotRunning, and then has
// killed nothing.
func (l *Lab) Kill(host string, programs ...Program) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	var targets []*process
	defer func() {
		for _, p := range targets {
			p.close()
		}
	}()
	for _, program := range programs {
		p, err := l.find(h, program)
		if err != nil {
			return err
		}
		targets = append(targets, p)
	}
	for _, p := range targets {
		err = errors.Join(err, p.signal(syscall.SIGKILL))
	}
	return err
}

// Wait returns when a program on a host has exited; at once if it does not run.
func (l *Lab) Wait(ctx context.Context, host string, program Program) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	p, err := l.find(h, program)
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	return p.wait(ctx)
}

// KillMember kills what pgsidecar runs on a member's host (sidecar, guard and
// PostgreSQL with all its backends), as far as it runs, and returns when it is
// gone. Consul's agent lives.
func (l *Lab) KillMember(ctx context.Context, host string) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	agent, err := l.PID(host, Consul)
	if err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	return l.killMachine(ctx, h, agent)
}

// KillHost kills every process of a host with SIGKILL, as a loss of power does.
func (l *Lab) KillHost(ctx context.Context, host string) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	return l.killMachine(ctx, h, 0)
}

// killAll kills until nothing of the host is left but one process (0: not even
// that): a process may have started another while the list was made.
func (l *Lab) killAll(ctx context.Context, h Host, but int) error {
	for {
		found, err := l.processes(h)
		found = slices.DeleteFunc(found, func(p *process) bool {
			if p.pid == but {
				p.close()
			}
			return p.pid == but
		})
		if err != nil || len(found) == 0 {
			return err
		}
		for _, p := range found {
			err = errors.Join(err, p.signal(syscall.SIGKILL))
		}
		for _, p := range found {
			err = errors.Join(err, p.wait(ctx))
			p.close()
		}
		if err != nil {
			return fmt.Errorf("kill the processes of %s: %w", h.Name, err)
		}
	}
}

// start runs a program on a host, in its namespace, with its output in a file
// of the host's folder. It does not wait for the program to be ready.
func (l *Lab) start(h Host, program Program, argv ...string) error {
	if err := l.record(entry{What: madeProcess, Host: h.Name, Name: string(program)}); err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(h.Dir, string(program)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", program, err)
	}
	defer out.Close()
	// Without the caller's context on purpose: the process outlives this call,
	// and with --detach this program.
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = h.Dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), EnvMark+"="+l.plan.ID+"/"+h.Name, "GOTRACEBACK=all")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := within(h.Namespace, cmd.Start); err != nil {
		return fmt.Errorf("start %s on %s: %w", program, h.Name, err)
	}
	started, err := startTime(cmd.Process.Pid)
	l.reap.Go(func() { _ = cmd.Wait() }) // its exit status is told by those who watch it
	if err != nil {
		return fmt.Errorf("%s on %s ended at once: %w; it said:\n%s", program, h.Name, ErrNotRunning, lastWords(h, program))
	}
	return l.record(entry{What: madeProcess, Host: h.Name, Name: string(program), PID: cmd.Process.Pid, Started: started})
}

// lastWords returns the end of a program's log, for an error.
func lastWords(h Host, program Program) string {
	b, err := os.ReadFile(filepath.Join(h.Dir, string(program)+".log"))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// every calls f now and then, until it returns true or an error, or the context
// ends: for what tells nobody when it is ready.
func every(ctx context.Context, interval time.Duration, f func() (bool, error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		done, err := f()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
