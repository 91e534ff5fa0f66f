package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// checkParameters asks pgsidecar's own rules (package parameters) about each parameter,
// and the server's program about those that they let pass.
func (r *reader) checkParameters(p *Postgres, mode ha.Mode) {
	const path = "postgres.parameters"
	seen, rest := map[string]string{}, map[string]string{}
	for _, name := range sortedKeys(p.Parameters) {
		ssl := []string{"ssl", "ssl_cert_file", "ssl_key_file", "ssl_ca_file"}
		key := strings.ToLower(name)
		err := parameters.Check(name, p.Parameters[name], mode == ha.ModeQuorum)
		if err == nil {
			err = parameters.CheckSockets(map[string]string{name: p.Parameters[name]}, p.DataDir)
		}
		switch {
		case err != nil:
			r.refuse(join(path, name), "%s", err)
		case p.TLS.CertFile != "" && slices.Contains(ssl, key):
			r.refuse(join(path, name), "parameter %s: it comes from postgres tls", name)
		case seen[key] != "":
			r.refuse(join(path, name), "parameter %s: it is given twice, as %s too; expected it once", name, seen[key])
		default:
			rest[name] = p.Parameters[name]
		}
		seen[key] = name
	}
	if r.env.Refused == nil {
		return
	}
	refused, err := r.env.Refused(p.BinDir, rest)
	if err != nil {
		r.refuse("postgres.bin_dir", "%s", err)
	}
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		r.refuse(join(path, name), "%s", refused[name])
	}
}

// sortedKeys returns a map's keys in order, so that diagnostics are.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
