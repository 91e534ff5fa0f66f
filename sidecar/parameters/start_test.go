package parameters_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// TestOnlyAtAStart: what PostgreSQL says only when it starts is refused before: the files of
// its certificates and the group of its sockets that are not there, and counts that leave no
// session, or no member a slot.
func TestOnlyAtAStart(t *testing.T) {
	there := filepath.Join(t.TempDir(), "here.crt")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var judge parameters.Judge
	for name, c := range map[string]struct {
		set  map[string]string
		says string
	}{
		"a lost certificate":         {map[string]string{"ssl": "on", "ssl_cert_file": "/nowhere/x.crt"}, "ssl_cert_file: there is no file /nowhere/x.crt"},
		"a lost authority":           {map[string]string{"SSL": "true", "SSL_CA_File": "/nowhere/ca.crt"}, "SSL_CA_File: there is no file"},
		"a lost folder":              {map[string]string{"ssl": "yes", "ssl_crl_dir": "/nowhere"}, "ssl_crl_dir: there is no file"},
		"lost parameters":            {map[string]string{"ssl": "1", "ssl_dh_params_file": "/nowhere/dh"}, "ssl_dh_params_file: there is no file"},
		"one that is there":          {map[string]string{"ssl": "on", "ssl_cert_file": there}, ""},
		"in the data directory":      {map[string]string{"ssl": "on", "ssl_cert_file": "server.crt"}, ""},
		"none":                       {map[string]string{"ssl": "on", "ssl_ca_file": ""}, ""},
		"ssl is off":                 {map[string]string{"ssl": "off", "ssl_cert_file": "/nowhere/x.crt"}, ""},
		"ssl is said elsewhere":      {map[string]string{"ssl_cert_file": "/nowhere/x.crt"}, ""},
		"a lost group":               {map[string]string{"Unix_Socket_Group": "nosuch"}, "Unix_Socket_Group: there is no group \"nosuch\""},
		"a group":                    {map[string]string{"unix_socket_group": "root"}, ""},
		"a group by its number":      {map[string]string{"unix_socket_group": "12345"}, ""},
		"no slot":                    {map[string]string{"max_replication_slots": "0"}, "max_replication_slots: each other member needs one"},
		"all are reserved":           {map[string]string{"max_connections": "3", "superuser_reserved_connections": "3"}, "superuser_reserved_connections: all 3 of max_connections"},
		"more are reserved":          {map[string]string{"Max_Connections": "20", "superuser_reserved_connections": "30"}, "all 20 of"},
		"some are reserved":          {map[string]string{"max_connections": "20", "superuser_reserved_connections": "19"}, ""},
		"the other is set elsewhere": {map[string]string{"superuser_reserved_connections": "150"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := parameters.CheckAll(c.set, false)
			if err == nil {
				refused, asking := judge.Refused(t.Context(), labtest.Program(t, programs.PostgresBin), c.set)
				if asking != nil {
					t.Fatal(asking)
				}
				err = parameters.First(refused)
			}
			if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}
