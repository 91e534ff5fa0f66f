package postgres

import (
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"testing"
	"time"
)

// Who has connected and is not let in yet is seen; who has ended, or was let in, is not.
func TestLoggingIn(t *testing.T) {
	m := newPrimary(t, "n1")
	poll(t, "nobody to log in", func() bool { return len(m.LoggingIn()) == 0 })
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(m.Port())))
	must(t, err)
	defer c.Close()
	poll(t, "a connection without a name", func() bool { return len(m.LoggingIn()) == 1 })

	// A start-up message (PostgreSQL documentation, "Message Formats"), which is answered
	// by a question for the password.
	body := "\x00\x03\x00\x00user\x00" + m.o.SuperuserName + "\x00database\x00postgres\x00\x00"
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...))
	must(t, err)
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	answer := make([]byte, 1)
	_, err = io.ReadFull(c, answer)
	must(t, err)
	if answer[0] != 'R' {
		t.Fatalf("the server answered %q", answer)
	}
	poll(t, "one that authenticates", func() bool { return len(m.LoggingIn()) == 1 })
	m.sql("select 1") // beside it
	c.Close()
	poll(t, "its end", func() bool { return len(m.LoggingIn()) == 0 })
}
