package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// relay stands between a link (a host's, or a site's) and the bridge and passes frames on later:
// for kernels without sch_netem. It lives in this process; when that is killed,
// the link is cut until HealAll joins it to the bridge again.
//
// Its goroutines, owned by Delay: for each direction one that reads and one
// that writes. close ends them and waits for that.
type relay struct {
	sockets [2]int // on the host's link, and on the one to the bridge
	stopped atomic.Bool
	work    sync.WaitGroup
}

// close ends the relay. The links stay as they are.
func (r *relay) close() {
	r.stopped.Store(true)
	r.work.Wait()
	for _, fd := range r.sockets {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// closeRelays ends all relays.
func (l *Lab) closeRelays() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for host, r := range l.relays {
		r.close()
		delete(l.relays, host)
	}
}

// startRelay takes a link off the bridge, puts a pair of links between them, and begins to
// pass frames on. Only what comes from the link is delayed.
func startRelay(ctx context.Context, bridge, link string, delay time.Duration) (*relay, error) {
	inner, outer := relayLinks(link)
	err := ipBatch(ctx, bridge, []string{
		fmt.Sprintf("link add %s type veth peer name %s", inner, outer),
		fmt.Sprintf("link set %s up", inner),
		fmt.Sprintf("link set %s master br0 up", outer),
		fmt.Sprintf("link set %s nomaster", link),
		fmt.Sprintf("link set %s promisc on", link),
		fmt.Sprintf("link set %s promisc on", inner),
	})
	if err != nil {
		return nil, err
	}
	r := &relay{sockets: [2]int{-1, -1}}
	err = within(bridge, func() error {
		for i, name := range []string{link, inner} {
			if r.sockets[i], err = packetSocket(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.close()
		return nil, err
	}
	r.pass(r.sockets[0], r.sockets[1], delay)
	r.pass(r.sockets[1], r.sockets[0], 0)
	return r, nil
}

// relayLinks names the pair: the end that the relay holds, and the bridge's.
func relayLinks(link string) (inner, outer string) { return link + "-relay", link + "-bridge" }

// packetSocket returns a socket that reads and writes whole frames of an
// interface, each with the header (virtio_net_hdr, 10 bytes) by which checksums
// and segmentation that the kernel has put off stay put off.
func packetSocket(name string) (int, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return -1, fmt.Errorf("look at interface %s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a packet socket: %w", err)
	}
	const everything = uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8) // in network byte order
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		// A read that comes back now and then sees that the relay was closed.
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: i.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open a packet socket on %s: %w", name, err)
	}
	return fd, nil
}

// frame is one frame and when it is due.
type frame struct {
	due  time.Time
	data []byte
}

// pass moves frames in one direction. Its queue is long enough for a second of
// a lab's traffic; what does not fit is lost, as in a switch.
func (r *relay) pass(from, to int, delay time.Duration) {
	queue := make(chan frame, 20_000)
	r.work.Go(func() {
		defer close(queue)
		buffer := make([]byte, 1<<17)
		for !r.stopped.Load() {
			n, err := unix.Read(from, buffer)
			if err != nil {
				continue // mostly that nothing came; close ends it in any case
			}
			select {
			case queue <- frame{time.Now().Add(delay), bytes.Clone(buffer[:n])}:
			default:
			}
		}
	})
	r.work.Go(func() {
		timer := time.NewTimer(time.Hour)
		defer timer.Stop()
		for f := range queue {
			if r.stopped.Load() {
				continue
			}
			timer.Reset(max(0, time.Until(f.due)))
			<-timer.C
			_, _ = unix.Write(to, f.data) // what cannot be sent is lost, as on any network
		}
	})
}
