package templates

import "fmt"

// PgBouncerSettings are what pgbouncer.ini.tmpl wants to know beside the topology.
type PgBouncerSettings struct {
	// Database is the name that clients connect to; default "*", which is any.
	Database string
}

// withDefaults fills in what is not set. It returns ErrUnsafe for a name that
// could end its word.
func (s PgBouncerSettings) withDefaults() (PgBouncerSettings, error) {
	setDefault(&s.Database, "*")
	if s.Database != "*" && !SafeName(s.Database) {
		return s, fmt.Errorf("pgbouncer database %q: %w", s.Database, ErrUnsafe)
	}
	return s, nil
}
