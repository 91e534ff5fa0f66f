package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"
	"time"
)

// stalled is a way to a server on which nothing comes through any more after so many
// bytes of the server's, and whose connections stay open.
func stalled(t *testing.T, to Source, bytes int64) Source {
	t.Helper()
	server := net.JoinHostPort(to.Host, strconv.Itoa(to.Port))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { close(done); _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				up, err := net.Dial("tcp", server)
				if err != nil {
					return
				}
				defer up.Close()
				go func() { _, _ = io.Copy(up, client) }()
				_, _ = io.CopyN(client, up, bytes)
				<-done
			}()
		}
	}()
	to.Port = listener.Addr().(*net.TCPAddr).Port
	return to
}

// fromStalled tries to rewind a server from a source that stands still: that ends, says
// so, and leaves the data as they were.
func fromStalled(t *testing.T, m *member, source Source) {
	t.Helper()
	m.patience = time.Second
	defer func() { m.patience = 0 }()
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Second)
	defer cancel()
	_, err := m.Rewind(ctx, stalled(t, source, 4000))
	if !errors.Is(err, ErrStandstill) || !SourceFailed(err) {
		t.Fatalf("a rewind from a source that stands still: %v", err)
	}
}

// TestStandstill: a program that does nothing is ended; one that works, in whatever way,
// is not.
func TestStandstill(t *testing.T) {
	s := &Server{o: Options{BinDir: "/bin", StateDir: t.TempDir()}}
	for script, still := range map[string]bool{
		"sleep 60": true,
		"i=0; while [ $i -lt 60 ]; do sleep 0.1; i=$((i + 1)); echo $i; done": false,
		"i=0; while [ $i -lt 3000000 ]; do i=$((i + 1)); done; exit 0":        false,
	} {
		patience := 5 * time.Second // a busy machine may leave a program alone for as long as a second
		if still {
			patience = time.Second
		}
		_, err := s.program(soon(t), "sh", []string{"-c", script}, runOptions{patience: patience})
		if errors.Is(err, ErrStandstill) != still || !still && err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
}
