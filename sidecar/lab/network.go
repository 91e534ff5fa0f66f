package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// ErrNotIsolated is returned by what needs a link of its own for each host.
var ErrNotIsolated = errors.New("this lab is on loopback; only an isolated one (lab up --isolated, as root) has links to cut")

// namespaceDir is where iproute2 keeps the namespaces that have names.
const namespaceDir = "/run/netns"

// deadMAC belongs to nobody (locally administered): frames to it are lost.
const deadMAC = "02:00:00:00:de:ad"

// makeNetwork makes a namespace for each host and one for the bridge, and joins
// them. No interface is ever outside of these namespaces.
func (l *Lab) makeNetwork(ctx context.Context) error {
	names := []string{l.plan.Bridge}
	if l.ownsWAN() {
		names = append(names, l.plan.Site.WAN)
	}
	for _, h := range l.plan.Hosts {
		names = append(names, h.Namespace)
	}
	for _, name := range names {
		if err := l.record(entry{What: madeNamespace, Name: name}); err != nil {
			return err
		}
		if err := ip(ctx, "netns", "add", name); err != nil {
			return err
		}
	}
	bridge := []string{"link add br0 type bridge", "link set br0 up", "link set lo up"}
	for _, h := range l.plan.Hosts {
		if h.Kind == KindWitness {
			continue
		}
		bridge = append(bridge,
			fmt.Sprintf("link add %s type veth peer name eth0 netns %s", h.Name, h.Namespace),
			fmt.Sprintf("link set %s master br0 up", h.Name))
	}
	if err := ipBatch(ctx, l.plan.Bridge, bridge); err != nil {
		return err
	}
	if l.ownsWAN() {
		if err := l.makeWAN(ctx); err != nil {
			return err
		}
	}
	for _, h := range l.plan.Hosts {
		err := ipBatch(ctx, h.Namespace, []string{
			"link set lo up",
			fmt.Sprintf("address add %s/16 dev eth0", h.Address),
			"link set eth0 up",
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// LinkDown takes the host's cable out: nothing goes in or out.
func (l *Lab) LinkDown(ctx context.Context, host string) error { return l.setLink(ctx, host, "down") }

// LinkUp puts the host's cable in, and returns when the link carries traffic.
func (l *Lab) LinkUp(ctx context.Context, host string) error {
	if err := l.setLink(ctx, host, "up"); err != nil {
		return err
	}
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	// The kernel tells of a carrier up to a second late.
	err = every(ctx, 10*time.Millisecond, func() (bool, error) {
		here, err := running(h.Namespace, "eth0")
		if err != nil || !here {
			return false, err
		}
		return running(l.bridge(h), h.Name)
	})
	if err != nil {
		return fmt.Errorf("wait for the link of %s: %w", host, err)
	}
	return nil
}

// running reports whether an interface is up and has a carrier.
func running(namespace, name string) (up bool, err error) {
	err = within(namespace, func() error {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("look at interface %s: %w", name, err)
		}
		up = i.Flags&net.FlagRunning != 0
		return nil
	})
	return up, err
}

func (l *Lab) setLink(ctx context.Context, host, state string) error {
	if !l.plan.Isolated {
		return ErrNotIsolated
	}
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	return ip(ctx, "-n", l.bridge(h), "link", "set", h.Name, state)
}

// bridge is the namespace of the bridge that a host's link leads to.
func (l *Lab) bridge(h Host) string {
	if h.Kind == KindWitness {
		return l.plan.Site.WAN
	}
	return l.plan.Bridge
}

// ownsWAN reports whether the lab has what is between two sites.
func (l *Lab) ownsWAN() bool { return l.plan.Site != nil && l.plan.Site.Number == 1 }

// Way is one direction between two hosts.
type Way struct{ From, To string }

// Cut loses everything that is sent these ways, silently, as a broken switch
// does; other ways stay open. It works by wrong entries in the senders' neighbour
// tables, so it needs nothing of the kernel but namespaces. All is cut within
// the moment that one `ip` takes.
func (l *Lab) Cut(ctx context.Context, ways ...Way) error {
	return l.neighbours(ctx, ways, "neigh replace %s lladdr "+deadMAC+" dev eth0 nud permanent")
}

// Heal mends these ways. What was whole stays whole.
func (l *Lab) Heal(ctx context.Context, ways ...Way) error {
	// "flush to" removes the entry if it exists, and is content if not.
	return l.neighbours(ctx, ways, "neigh flush to %s dev eth0 nud permanent")
}

// HealAll mends every cut and takes every loss away.
func (l *Lab) HealAll(ctx context.Context) error {
	if !l.plan.Isolated {
		return nil
	}
	errs := []error{l.healWAN(ctx)}
	for _, h := range l.plan.Hosts {
		errs = append(errs, ip(ctx, "-n", h.Namespace, "neigh", "flush", "dev", "eth0", "nud", "permanent"), l.LinkUp(ctx, h.Name))
		errs = append(errs, l.clearTraffic(ctx, h))
	}
	return errors.Join(errs...)
}

// neighbours does something to the neighbour tables of those who send, for the
// address of whom they send to: one `ip` for each sender, all at once.
func (l *Lab) neighbours(ctx context.Context, ways []Way, command string) error {
	if !l.plan.Isolated {
		return ErrNotIsolated
	}
	batches := map[string][]string{} // by namespace
	for _, way := range ways {
		from, err := l.plan.Host(way.From)
		if err != nil {
			return err
		}
		to, err := l.plan.Host(way.To)
		if err != nil {
			return err
		}
		batches[from.Namespace] = append(batches[from.Namespace], fmt.Sprintf(command, to.Address))
	}
	var all errgroup.Group
	for namespace, commands := range batches {
		all.Go(func() error { return ipBatch(ctx, namespace, commands) })
	}
	return all.Wait()
}

// Lose loses a share (0 to 1) of what a host sends and of what it receives.
func (l *Lab) Lose(ctx context.Context, host string, share float64) error {
	if !l.plan.Isolated {
		return ErrNotIsolated
	}
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	if err := l.clearTraffic(ctx, h); err != nil {
		return err
	}
	return loseFrames(ctx, h.Namespace, "eth0", share, "ingress", "egress")
}

// CutPort loses what is sent to a member's PostgreSQL port and what it answers, as a
// firewall that drops does; all else arrives.
func (l *Lab) CutPort(ctx context.Context, host string) error {
	if !l.plan.Isolated {
		return ErrNotIsolated
	}
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	if err := l.clearTraffic(ctx, h); err != nil {
		return err
	}
	if err := l.tc(ctx, h, "qdisc", "add", "dev", "eth0", "clsact"); err != nil {
		return err
	}
	// A classic BPF program again: IPv4 (12 is the frame's type), TCP (23), and the
	// port, which lies behind a header of the length at 14: the destination's at +16,
	// the source's at +14.
	for _, end := range []struct {
		direction string
		offset    int
	}{{"ingress", 16}, {"egress", 14}} {
		program := fmt.Sprintf("9,40 0 0 12,21 0 6 2048,48 0 0 23,21 0 4 6,177 0 0 14,72 0 0 %d,21 0 1 %d,6 0 0 2,6 0 0 0", end.offset, h.Ports.Postgres)
		if err := l.tc(ctx, h, "filter", "add", "dev", "eth0", end.direction, "bpf", "da", "bytecode", program); err != nil {
			return err
		}
	}
	return nil
}

// Delay makes everything that a host sends arrive later. Where the kernel has no
// netem, this process passes the frames on itself: then the delay ends, with the
// link cut, when the process does.
func (l *Lab) Delay(ctx context.Context, host string, delay time.Duration) error {
	if !l.plan.Isolated {
		return ErrNotIsolated
	}
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	if err := l.clearTraffic(ctx, h); err != nil {
		return err
	}
	err = l.tc(ctx, h, "qdisc", "replace", "dev", "eth0", "root", "netem", "delay", delay.String())
	if err == nil || !strings.Contains(err.Error(), "qdisc kind is unknown") {
		return err
	}
	r, err := startRelay(ctx, l.bridge(h), h.Name, delay)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.relays[host] = r
	return nil
}

// clearTraffic takes loss and delay away. There may be none; then ip and tc
// complain, and are not listened to.
func (l *Lab) clearTraffic(ctx context.Context, h Host) error {
	_ = l.tc(ctx, h, "qdisc", "del", "dev", "eth0", "clsact")
	_ = l.tc(ctx, h, "qdisc", "del", "dev", "eth0", "root")
	l.mu.Lock()
	r := l.relays[h.Name]
	delete(l.relays, h.Name)
	l.mu.Unlock()
	if r != nil {
		r.close()
	}
	inner, _ := relayLinks(h.Name)
	_ = ip(ctx, "-n", l.bridge(h), "link", "delete", inner)
	return ip(ctx, "-n", l.bridge(h), "link", "set", h.Name, "master", "br0")
}

func (l *Lab) tc(ctx context.Context, h Host, args ...string) error {
	return run(ctx, "", "tc", append([]string{"-n", h.Namespace}, args...)...)
}

func ip(ctx context.Context, args ...string) error { return run(ctx, "", "ip", args...) }

// ipBatch gives several commands to one `ip`, in a namespace.
func ipBatch(ctx context.Context, namespace string, commands []string) error {
	return run(ctx, strings.Join(commands, "\n")+"\n", "ip", "-n", namespace, "-batch", "-")
}

// run runs a command to its end; its error has what the command said.
func run(ctx context.Context, stdin, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// removeNamespace removes a namespace and with it the links in it. One that is
// not there is no error.
func removeNamespace(ctx context.Context, name string) error {
	if _, err := os.Lstat(filepath.Join(namespaceDir, name)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return ip(ctx, "netns", "delete", name)
}

// namespaceLink returns what /proc/PID/ns/net leads to for processes in the
// network namespace of that name (namespaces(7)).
func namespaceLink(name string) (string, error) {
	var s unix.Stat_t
	if err := unix.Stat(filepath.Join(namespaceDir, name), &s); err != nil {
		return "", fmt.Errorf("look at namespace %s: %w", name, err)
	}
	return fmt.Sprintf("net:[%d]", s.Ino), nil
}

// within calls f on a thread that is in the namespace: processes started by f
// and sockets made by f belong to it for good. The empty namespace is the
// caller's own.
func within(namespace string, f func() error) error {
	if namespace == "" {
		return f()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own namespace: %w", err)
	}
	defer home.Close()
	there, err := os.Open(filepath.Join(namespaceDir, namespace))
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open namespace: %w", err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", namespace, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked and so ends with this goroutine: no other
		// goroutine must ever run in this namespace.
		return errors.Join(err, fmt.Errorf("leave namespace %s: %w", namespace, back))
	}
	runtime.UnlockOSThread()
	return err
}

// Dialer returns a function that connects as a program on the host would. It
// takes addresses, not names: a resolver would ask from the wrong place.
func (l *Lab) Dialer(host string) (func(ctx context.Context, network, address string) (net.Conn, error), error) {
	h, err := l.plan.Host(host)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		// A literal address is dialled by this very goroutine, and so by this
		// thread, where the socket gets its namespace.
		name, _, err := net.SplitHostPort(address)
		if err == nil && net.ParseIP(name) == nil {
			return nil, fmt.Errorf("dial %s from %s: not an IP address", address, host)
		}
		err = within(h.Namespace, func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}, nil
}

// namespaces returns the names that the journal has.
func namespaces(entries []entry) []string {
	var names []string
	for _, e := range entries {
		if e.What == madeNamespace && !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}
