package postgres

import "testing"

// TestRefusedPort: that the port is in use is said, and not only that there are no sockets.
func TestRefusedPort(t *testing.T) {
	const at = "2026-12-01 10:00:00 UTC [7] "
	const inUse = at + "LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use\n" + at + "HINT:  Is another postmaster already running on port 5432?\n" +
		at + "WARNING:  could not create listen socket for \"127.0.0.1\"\n"
	for log, want := range map[string]string{
		inUse + at + "FATAL:  could not create any TCP/IP sockets\n":                                         `FATAL:  could not create any TCP/IP sockets: could not bind IPv4 address "127.0.0.1": Address already in use`,
		inUse + at + "FATAL:  out of memory\n":                                                               "FATAL:  out of memory", // one address of two was free
		inUse + at + "LOG:  starting PostgreSQL 15\n" + at + "FATAL:  could not create any TCP/IP sockets\n": "FATAL:  could not create any TCP/IP sockets",
		at + "FATAL:  could not create any TCP/IP sockets\n":                                                 "FATAL:  could not create any TCP/IP sockets",
	} {
		s := serverOfFiles(t)
		must(t, s.beginLife(asPrimary))
		appendTo(t, s.logFile(), log)
		if got := s.LastWords(); got != want {
			t.Errorf("of\n%sit says %q, want %q", log, got, want)
		}
	}
}
