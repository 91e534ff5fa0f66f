package parameters_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// TestSockets: sockets in the data directory would end each pg_rewind, so that members that
// come back were cloned; whatever way the directory is written, also relative to where the
// server runs.
func TestSockets(t *testing.T) {
	for value, says := range map[string]string{
		"":                               "",
		" ":                              "",
		"/var/run/postgresql":            "",
		"/var/run/postgresql, @abstract": "",
		"/srv/data-of-others":            "",
		"/srv/data/..":                   "",
		"/srv/data":                      "/srv/data is in the data directory",
		"/srv/data/":                     "/srv/data/ is in the data directory",
		"/tmp, /srv/data/sockets":        "/srv/data/sockets is in the data directory",
		`"/srv/data"`:                    "/srv/data is in the data directory",
		"/srv/../srv/data/.":             "is in the data directory",
		".":                              ". is in the data directory",
		"sockets":                        "sockets is in the data directory",
		"/tmp,":                          "an empty name",
		"/tmp,,/var/run":                 "an empty name",
	} {
		for _, name := range []string{"unix_socket_directories", "Unix_Socket_Directories"} {
			err := parameters.CheckSockets(map[string]string{"work_mem": "4MB", name: value}, "/srv/data")
			if (err != nil) != (says != "") || err != nil && (!strings.Contains(err.Error(), says) || !errors.Is(err, parameters.ErrValue)) {
				t.Errorf("%s = %q: %v, want %q", name, value, err, says)
			}
			// Where the data directory is not known, as for all members' settings, the rest is.
			err = parameters.Check(name, value, true)
			if want := says != "" && !strings.Contains(value, "/srv/"); (err != nil) != want {
				t.Errorf("%s = %q for all members: %v", name, value, err)
			}
		}
	}
}
