package checks_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgsidecar/pgsidecar/checks"
)

// TestMisled: an address is said to be wrong when a pooler or another member's server
// answers there; not when nobody can tell.
func TestMisled(t *testing.T) {
	for name, c := range map[string]struct {
		refuses string // its SQLSTATE; empty: it lets in
		is      string // its cluster_name
		want    string
	}{
		"a pooler":           {refuses: "08P01", want: "as a pooler (no such user)"},
		"a password":         {refuses: "28P01"},
		"starting":           {refuses: "57P03"},
		"too many":           {refuses: "53300"},
		"this member":        {is: "n1"},
		"another member":     {is: "n2", want: `the server that answers there is "n2", not "n1"`},
		"a server of nobody": {is: "", want: `the server that answers there is "", not "n1"`},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			done := make(chan struct{})
			defer func() { listener.Close(); <-done }()
			go func() {
				defer close(done)
				for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
					answerAs(conn, c.refuses, c.is)
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			at := checks.Upstream{Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, User: "replicator", Self: "n1", Timeout: 5 * time.Second}
			got := checks.Misled(ctx, at, func() (string, error) { return "secret", nil })
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// answerAs plays a server for one connection.
func answerAs(conn net.Conn, refuses, is string) {
	defer conn.Close()
	b := pgproto3.NewBackend(conn, conn)
	for {
		m, err := b.ReceiveStartupMessage()
		if err != nil {
			return
		}
		if _, ssl := m.(*pgproto3.SSLRequest); !ssl {
			break
		}
		if _, err := conn.Write([]byte("N")); err != nil {
			return
		}
	}
	if refuses != "" {
		b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: refuses, Message: "no such user"})
		_ = b.Flush() // the client may be gone
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if b.Flush() != nil {
		return
	}
	if _, err := b.Receive(); err != nil {
		return
	}
	b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("cluster_name"), DataTypeOID: 25}}})
	b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(is)}})
	b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SHOW")})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if b.Flush() == nil {
		_, _ = b.Receive() // until it ends
	}
}
