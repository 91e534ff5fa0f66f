package install

import (
	_ "embed"

	"github.com/pgsidecar/pgsidecar/sessions"
)

//go:embed files/pgsidecar.service
var SystemdUnit string

// Needrestart is a file for needrestart's conf.d.
//
//go:embed files/needrestart.conf
var Needrestart string

//go:embed files/Dockerfile
var Dockerfile string

// Policy is the least ACL policy that a member needs of Consul.
func Policy(prefix, cluster, service string) string { return sessions.Policy(prefix, cluster, service) }
