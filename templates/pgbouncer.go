package templates

// PgBouncerSettings are what pgbouncer.ini.tmpl wants to know beside the topology.
type PgBouncerSettings struct {
	Bind string // default 127.0.0.1
	Port int    // default 6432
}

func (s PgBouncerSettings) withDefaults() PgBouncerSettings {
	setDefault(&s.Bind, "127.0.0.1")
	setDefault(&s.Port, 6432)
	return s
}
