package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// HAProxySocket returns the path of the socket of HAProxy's Runtime API.
func (p *Plan) HAProxySocket() string { return filepath.Join(p.App().Dir, "haproxy.sock") }

// The first haproxy.cfg, until `pgsidecar proxy` has seen the members and writes
// its own: HAProxy asks the members' APIs for their role.
var haproxyTemplate = template.Must(template.New("haproxy.cfg").Parse(`global
  stats socket {{.Plan.HAProxySocket}} mode 600 level admin expose-fd listeners
  maxconn 2000
  hard-stop-after 5s

defaults
  mode tcp
  timeout connect 500ms
  timeout check 1s
  timeout client 1h
  timeout server 1h
  timeout queue 10s
{{range .Listen}}
listen {{.Name}}
  bind {{.Address}}
  option httpchk GET {{.Check}}
  http-check expect status 200
  default-server check inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
{{- range $.Plan.Members}}
  server {{.Name}} {{.PostgresAddress}} port {{.Ports.API}}
{{- end}}
{{end}}`))

var proxyTemplate = template.Must(template.New("proxy.hcl").Funcs(template.FuncMap{"q": strconv.Quote}).Parse(
	`cluster = {{q .Plan.Cluster}}
member  = {{q .App.Name}}

consul {
  address = [{{range $i, $a := .Consul}}{{if $i}}, {{end}}{{q $a}}{{end}}]
  prefix  = {{q .Plan.Prefix}}
{{- if .ConsulToken}}
  token_file = {{q .ConsulToken}}
{{- end}}
{{- with .OtherDatacenter}}
  other_datacenter = {{q .}}
{{- end}}
}

service {
  name = {{q .Plan.Cluster}}
}

{{- if .App.Ports.Status}}

api {
  listen = {{q .App.StatusAddress}}
}
{{- end}}

haproxy {
  socket       = {{q .Plan.HAProxySocket}}
  bind         = {{q .App.Address}}
  primary_port = {{.App.Ports.Primary}}
  replica_port = {{.App.Ports.Replicas}}
}
{{- if .Plan.PgBouncer}}

# Clients wait in it, without an error, while the primary changes.
pgbouncer {
  address = {{q .App.PoolAddress}}
  user    = {{q .ConsoleRole}}
}
{{- end}}

# The state first: HAProxy reads it when it reads the other.
template "state" {
  builtin     = "haproxy.state"
  destination = {{q .State}}
}

template "haproxy" {
  builtin     = "haproxy.cfg"
  destination = {{q .Config}}
  check       = [{{q .Plan.HAProxy}}, "-c", "-f", "{}"]
  command     = ["/bin/sh", "-c", {{q .Reload}}]
}
`))

var pgbouncerTemplate = template.Must(template.New("pgbouncer.ini").Parse(`[databases]
* = host={{.App.Address}} port={{.App.Ports.Primary}}

[pgbouncer]
listen_addr = {{.App.Address}}
listen_port = {{.App.Ports.Pool}}
unix_socket_dir =
auth_type = trust
auth_file = {{.Users}}
admin_users = {{.ConsoleRole}}
pool_mode = transaction
max_client_conn = 500
default_pool_size = 20
server_connect_timeout = 1
server_login_retry = 0.1
ignore_startup_parameters = extra_float_digits
{{- if .Prepares}}
max_prepared_statements = 100
{{- end}}
`))

// consoleRole is whom PgBouncer's console obeys: pgsidecar.
const consoleRole = "pgsidecar"

// writeAppConfig writes the configuration of HAProxy, the proxy and PgBouncer.
func (l *Lab) writeAppConfig(h Host) error {
	type listen struct{ Name, Address, Check string }
	data := map[string]any{"Plan": l.plan, "App": h, "ConsoleRole": consoleRole, "Consul": l.plan.consulAddresses(h), "ConsulToken": l.plan.consulTokenFile(),
		"OtherDatacenter": l.plan.otherDatacenter(),
		"Listen":          []listen{{"primary", h.PrimaryAddress(), "/primary"}, {"replicas", h.ReplicasAddress(), "/replica"}},
		"Config":          filepath.Join(h.Dir, "haproxy.cfg"),
		"State":           filepath.Join(h.Dir, l.plan.Cluster+".state"),
		"Reload":          "kill -USR2 $(cat " + haproxyPIDFile(h) + ")"}
	files := []struct {
		name     string
		template *template.Template
	}{{"haproxy.cfg", haproxyTemplate}, {"proxy.hcl", proxyTemplate}}
	for _, f := range files {
		var b strings.Builder
		if err := f.template.Execute(&b, data); err != nil {
			return fmt.Errorf("make %s: %w", f.name, err)
		}
		if err := os.WriteFile(filepath.Join(h.Dir, f.name), []byte(b.String()), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	if l.agent != nil {
		if err := l.writeAgentHAProxy(h); err != nil {
			return err
		}
	}
	if l.plan.PgBouncer == "" {
		return nil
	}
	return l.writePgBouncerConfig(h)
}

// writePgBouncerConfig gives PgBouncer its own folder, for it cannot run as
// root, and the application's password, with which it logs in.
func (l *Lab) writePgBouncerConfig(h Host) error {
	dir := filepath.Join(h.Dir, "pgbouncer")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make PgBouncer's folder: %w", err)
	}
	password, err := os.ReadFile(l.plan.PasswordFile(ApplicationRole))
	if err != nil {
		return fmt.Errorf("read a password: %w", err)
	}
	users := filepath.Join(dir, "users")
	line := fmt.Sprintf("%q %q\n%q \"\"\n", ApplicationRole, strings.TrimSpace(string(password)), consoleRole)
	if err := os.WriteFile(users, []byte(line), 0o600); err != nil {
		return fmt.Errorf("write PgBouncer's users: %w", err)
	}
	var b strings.Builder
	if err := pgbouncerTemplate.Execute(&b, map[string]any{"App": h, "Users": users, "ConsoleRole": consoleRole,
		"Prepares": programs.PgBouncerPrepares(l.plan.PgBouncer)}); err != nil {
		return fmt.Errorf("make pgbouncer.ini: %w", err)
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(ini, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write pgbouncer.ini: %w", err)
	}
	for _, path := range []string{dir, users, ini} {
		if err := l.own(path); err != nil {
			return err
		}
	}
	return nil
}

// proxyService registers `pgsidecar proxy` at the agent of its host, as `pgsidecar help
// proxy` has it, so that members show where it leads clients.
func (l *Lab) proxyService(h Host) (map[string]any, error) {
	meta := map[string]string{"haproxy": "1", "api": h.StatusAddress()}
	if l.plan.PgBouncer != "" {
		meta["pgbouncer"] = "1"
	}
	service := map[string]any{"name": sessions.ProxyService(l.plan.Cluster), "port": h.Ports.Primary, "meta": meta,
		"check": map[string]string{"name": "ready", "http": "http://" + h.StatusAddress() + "/readiness", "interval": "2s", "timeout": "2s"}}
	if l.plan.Breakable {
		token, err := l.plan.secret(managementToken)
		if err != nil {
			return nil, err
		}
		service["token"] = token
	}
	return service, nil
}

// appRuns are what the application's host runs besides Consul, in the order in
// which it is started.
func (l *Lab) appRuns() []Program {
	runs := []Program{HAProxy}
	if l.plan.PgBouncer != "" {
		runs = append(runs, PgBouncer)
	}
	if l.plan.Binary != "" {
		runs = append(runs, Proxy)
	}
	return runs
}

// startHAProxy starts HAProxy as its packages do (master-worker) and returns
// when it takes connections.
func (l *Lab) startHAProxy(ctx context.Context, h Host) error {
	config := filepath.Join(h.Dir, "haproxy.cfg")
	if err := l.start(h, HAProxy, l.plan.HAProxy, "-W", "-db", "-f", config, "-p", haproxyPIDFile(h)); err != nil {
		return err
	}
	return l.waitListening(ctx, h, HAProxy, h.PrimaryAddress())
}

// haproxyPIDFile is where HAProxy's master writes its pid.
func haproxyPIDFile(h Host) string { return filepath.Join(h.Dir, "haproxy.pid") }

func (l *Lab) startPgBouncer(h Host) error {
	argv := []string{l.plan.PgBouncer, filepath.Join(h.Dir, "pgbouncer", "pgbouncer.ini")}
	if l.plan.User != "" {
		argv = []string{argv[0], "-u", l.plan.User, argv[1]}
	}
	return l.start(h, PgBouncer, argv...)
}

// waitListening waits until a program that was just started takes connections.
func (l *Lab) waitListening(ctx context.Context, h Host, program Program, address string) error {
	dial, err := l.Dialer(h.Name)
	if err != nil {
		return err
	}
	err = every(ctx, 20*time.Millisecond, func() (bool, error) {
		if _, err := l.PID(h.Name, program); err != nil {
			return false, fmt.Errorf("%w; it said:\n%s", err, lastWords(h, program))
		}
		var conn net.Conn
		if conn, err = dial(ctx, "tcp", address); err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w", program, err)
	}
	return nil
}
