package postgres

import (
	"strings"
	"testing"
)

// TestSocketDirectories: the server's sockets are where pgsidecar looks for them, and also
// where the configuration says; a list that is empty leaves its own.
func TestSocketDirectories(t *testing.T) {
	s := &Server{o: Options{DataDir: "/srv/data", StateDir: "/srv/state", Listen: "127.0.0.1:5432"}, sock: "/srv/state/sock"}
	for value, want := range map[string]string{"": "/srv/state/sock", " ": "/srv/state/sock", "/tmp": "/srv/state/sock, /tmp"} {
		for _, line := range s.fixed(Settings{Parameters: map[string]string{"Unix_socket_directories": value}}) {
			if line[0] == socketDirectories && line[1] != want {
				t.Errorf("%q: %q, want %q", value, line[1], want)
			}
		}
	}
	set := Settings{Parameters: map[string]string{socketDirectories: "/srv/data"}}
	if _, err := s.tryFiles(t.Context(), set); err == nil || !strings.Contains(err.Error(), "in the data directory") {
		t.Errorf("sockets in the data directory: %v", err)
	}
}
