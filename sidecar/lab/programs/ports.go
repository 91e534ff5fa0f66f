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

// given are the ports this process was given: none is given twice.
var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// FreePort returns a port that nobody uses on 127.0.0.1, by TCP nor by UDP. It
// fails with ErrNoPort.
func FreePort() (int, error) {
	given.Lock()
	defer given.Unlock()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if !given.ports[port] && unused(port) {
			given.ports[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("%w from %d to %d", ErrNoPort, firstPort, lastPort)
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
