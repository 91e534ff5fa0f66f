package postgres

import (
	"slices"
	"strings"
)

// withheld are variables of the service's environment that the server does not get, by name
// or, with a star, by how the name begins: what holds a token or tells where our own is,
// what belongs to this process alone (systemd, Go, a shell, code that is put into it), what would change the words of
// PostgreSQL's programs, and PostgreSQL's own, such as PGHOST and PGDATA.
var withheld = []string{
	"CONSUL_*", "NOMAD_TOKEN", "VAULT_*", "PGSIDECAR_*", "OTEL_*",
	"NOTIFY_SOCKET", "LISTEN_*", "WATCHDOG_*", "MAINPID", "INVOCATION_ID", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY",
	"GODEBUG", "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GOTRACEBACK", "GOCOVERDIR",
	"PWD", "OLDPWD", "SHLVL", "_",
	"LC_*", "LANGUAGE", "LD_PRELOAD", "USER", "LOGNAME",
	"PG*",
}

// shortSecret is how many bytes a secret has, at least, that is looked for within values.
const shortSecret = 8

// passed are exceptions from withheld.
const passed = "PGBACKREST_"

// Inherited are those of the service's variables (NAME=VALUE) that the server gets, and with it
// archive_command, restore_command and extensions: all but withheld, as from systemd.
// A variable whose value is one of the secrets, or has one in it, does not get there, whatever its name.
func Inherited(environ, secrets []string) []string {
	var env []string
	for _, variable := range environ {
		name, value, ok := strings.Cut(variable, "=")
		if !ok || name == "" || slices.ContainsFunc(withheld, func(w string) bool { return matches(name, w) }) && !strings.HasPrefix(name, passed) ||
			slices.ContainsFunc(secrets, func(s string) bool { return s == value || len(s) >= shortSecret && strings.Contains(value, s) }) {
			continue
		}
		env = append(env, variable)
	}
	return env
}

func matches(name, pattern string) bool {
	begin, open := strings.CutSuffix(pattern, "*")
	return name == pattern || open && strings.HasPrefix(name, begin)
}

// environment is all that the server and its programs get: what the service passes on
// (Inherited), and what must be so. Messages are in English, because some are read.
func (s *Server) environment() []string {
	path, home := "", s.home
	var env []string
	for _, variable := range s.o.WAL.Environment {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case name == "PATH":
			path = value + ":"
		case name != "HOME":
			env = append(env, variable)
		case !s.switchID: // else it is root's
			home = value
		}
	}
	return append(env,
		"PATH="+s.o.BinDir+":"+path+"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME="+home, "USER="+s.o.User, "LOGNAME="+s.o.User,
		"LC_ALL=C.UTF-8", "LC_MESSAGES=C", "PGCONNECT_TIMEOUT=5",
		"PGPASSFILE="+s.Passfile(), "PGSERVICEFILE="+s.state("upstream"))
}
