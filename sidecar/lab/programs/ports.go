package programs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports lie below the range that Linux takes for outgoing connections (32768 and
// up, ip_local_port_range), so that a server which starts late, or again, finds
// its port free still; and below 21000, from where on Nomad gives dynamic ports in tests.
const firstPort, lastPort = 15000, 21000

// ErrNoPort is returned when no free port was found.
var ErrNoPort = errors.New("no free port on 127.0.0.1")

// given are the ports that this process was given, with what tells other processes
// so: none is given twice.
var given = struct {
	sync.Mutex
	ports map[int]net.Listener
}{ports: map[int]net.Listener{}}

// FreePort returns a port that nobody uses on 127.0.0.1, by TCP nor by UDP, and that
// no other process which asked FreePort was given and may yet use. It fails with
// ErrNoPort.
func FreePort() (int, error) {
	given.Lock()
	defer given.Unlock()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		claim := claimed(port)
		if claim == nil {
			continue
		}
		if unused(port) {
			given.ports[port] = claim
			return port, nil
		}
		claim.Close()
	}
	return 0, fmt.Errorf("%w from %d to %d", ErrNoPort, firstPort, lastPort)
}

// claimed reserves a port for this process, and returns nil if it is reserved. The
// reservation is an abstract Unix socket of the port's name: like the port it is of one
// network namespace, it needs no file, and the kernel drops it when the process ends
// (unix(7)).
func claimed(port int) net.Listener {
	l, err := net.Listen("unix", "@pgsidecar-port-"+strconv.Itoa(port))
	if err != nil {
		return nil
	}
	return l
}

func unused(port int) bool {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	defer udp.Close()
	return true
}
