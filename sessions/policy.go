package sessions

import (
	_ "embed"
	"strconv"
	"strings"
)

//go:embed policy.hcl
var policy string

// Policy returns the ACL policy, in HCL and with comments, that a member of the
// cluster needs: policy.hcl, with these names in place of its own (the prefix
// pgsidecar, the cluster pg and the service pg).
func Policy(prefix, cluster, service string) string {
	return strings.NewReplacer(
		`"pgsidecar/pg/"`, strconv.Quote(prefix+"/"+cluster+"/"),
		`service "pg"`, "service "+strconv.Quote(service),
		`service "pg-proxy"`, "service "+strconv.Quote(ProxyService(service)),
		`the cluster "pg"`, "the cluster "+strconv.Quote(cluster),
		"pgsidecar-pg", "pgsidecar-"+cluster,
		"primary.pg.service", "primary."+service+".service",
		`"pgsidecar pg"`, strconv.Quote("pgsidecar "+cluster),
	).Replace(policy)
}
