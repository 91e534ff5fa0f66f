package postgres

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// PIDFile is what postmaster.pid says (PostgreSQL's pidfile.h).
type PIDFile struct {
	PID    int
	Port   int
	Socket string // the first directory; empty: none
	// Ready: the postmaster takes connections, as a primary or as a standby.
	Ready bool
	// Starting: it refuses each connection, with a process that it makes for that.
	Starting bool
}

// PIDFile reads postmaster.pid.
func (s *Server) PIDFile() (PIDFile, error) {
	content, err := s.files.ReadFile(s.data("postmaster.pid"))
	if err != nil {
		return PIDFile{}, fmt.Errorf("read postmaster.pid: %w", err)
	}
	p := parsePIDFile(string(content))
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID)); err != nil {
		p.Ready, p.Starting = false, false // the file is a dead server's
	}
	return p, nil
}

// parsePIDFile reads what there is of the file: it grows while the server starts.
func parsePIDFile(content string) PIDFile {
	lines := strings.Split(content, "\n")
	line := func(n int) string {
		if n > len(lines) {
			return ""
		}
		return strings.TrimSpace(lines[n-1])
	}
	pid, _ := strconv.Atoi(line(1)) // zero: it is not there
	port, _ := strconv.Atoi(line(4))
	status := line(8)
	return PIDFile{PID: pid, Port: port, Socket: line(5), Ready: status == "ready" || status == "standby", Starting: status == "starting"}
}
