package checks_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// major is the version of the server's data.
func (s *server) major() int {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.data(), "PG_VERSION"))
	must(s.t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(s.t, err)
	return n
}

// TestLoginTrigger: what a database makes of each login does not keep this program out, and
// nothing ends what takes it long.
func TestLoginTrigger(t *testing.T) {
	t.Parallel()
	p := primary(t, "n1")
	if p.major() < 17 {
		t.Skip("PostgreSQL has login triggers and transaction_timeout from 17 on")
	}
	session := p.sql() // nobody else gets in after this
	for _, command := range []string{
		"create function refuse() returns event_trigger language plpgsql as $$ begin raise 'nobody logs in'; end $$",
		"create event trigger refuse on login execute function refuse()",
		"alter system set transaction_timeout = '1s'",
		"select pg_reload_conf()",
	} {
		_, err := session.Exec(within(t, 20*time.Second), command)
		must(t, err)
	}
	conn := p.newConn()
	defer conn.Close()
	must(t, conn.Await(within(t, 20*time.Second)))
	if _, err := conn.Read(within(t, 20*time.Second)); err != nil {
		t.Errorf("a look: %v", err)
	}
}
