package main

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// farDelay is how long a byte takes from one site to the other, each way.
const farDelay = 30 * time.Millisecond

// far is what lies between two sites: an address at the one that leads to a server at the
// other, over a long way. A kernel without sch_netem cannot be asked for it.
type far struct {
	t  *testing.T
	mu sync.Mutex
	by map[string]string // address here, by the server's
}

// of is the address that leads to a server.
func (f *far) of(server string) string {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if at := f.by[server]; at != "" {
		return at
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go join(c, server)
		}
	}()
	f.by[server] = l.Addr().String()
	return f.by[server]
}

// join passes on what two ends of a connection say, until one of them ends. Nobody learns of
// a connection, or of its end, sooner than the way is long.
func join(c net.Conn, server string) {
	defer c.Close()
	<-time.After(2 * farDelay)
	there, err := net.DialTimeout("tcp", server, time.Second)
	if err != nil {
		return
	}
	defer there.Close()
	var ways sync.WaitGroup
	ways.Go(func() { slowly(there, c) })
	ways.Go(func() { slowly(c, there) })
	ways.Wait()
}

// slowly passes on one direction, and closes both where it ends.
func slowly(to, from net.Conn) {
	type piece struct {
		due  time.Time
		data []byte
	}
	queue := make(chan piece, 10_000)
	go func() { // ends with the connection
		defer close(queue)
		buffer := make([]byte, 1<<16)
		for {
			n, err := from.Read(buffer)
			queue <- piece{time.Now().Add(farDelay), bytes.Clone(buffer[:n])}
			if err != nil {
				return
			}
		}
	}()
	for p := range queue {
		<-time.After(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			from.Close()
			_, _ = io.Copy(io.Discard, from)
		}
	}
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite() // the other direction goes on
	}
}
