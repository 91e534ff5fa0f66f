package programs

import (
	"net"
	"strconv"
	"testing"
)

// A port that was given stays given: to this process and, by the same socket, to all
// others, also while nobody listens on it.
func TestFreePortIsGivenOnce(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		port, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Fatalf("port %d was given twice", port)
		}
		seen[port] = true
		if claimed(port) != nil {
			t.Fatalf("port %d, which was given, could be reserved again", port)
		}
	}
}

// A port that is in use is not reserved for later either.
func TestFreePortLetsGo(t *testing.T) {
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if unused(port) {
		t.Errorf("port %d, on which somebody listens, counts as unused", port)
	}
}
