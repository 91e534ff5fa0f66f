package config_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

var update = flag.Bool("update", false, "write testdata/*.want anew")

// environment is a machine that is the same everywhere.
func environment(set ...string) config.Environment {
	return config.Environment{
		Hostname: "DB1.example.com",
		User:     "postgres",
		Getenv: func(key string) string {
			for _, s := range append(set, "REPLICATION_PASSWORD=hunter4", "PEERS_KEY=hunter5") {
				if v, ok := strings.CutPrefix(s, key+"="); ok {
					return v
				}
			}
			return ""
		},
		Sockaddr: func(template string) (string, error) {
			if strings.Contains(template, "Bogus") {
				return "", errors.New(`function "Bogus" not defined`)
			}
			out := strings.ReplaceAll(template, "{{ GetPrivateIP }}", "10.0.0.7")
			return strings.ReplaceAll(out, "{{ GetPublicIP }}", ""), nil
		},
	}
}

// TestDiagnostics holds what a person reads about each faulty file to the
// .want beside it. A file without faults has an empty one.
func TestDiagnostics(t *testing.T) {
	files, err := filepath.Glob("testdata/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".hcl"), func(t *testing.T) {
			var got strings.Builder
			_, err := config.Load(file, environment())
			var faults *config.Error
			if errors.As(err, &faults) {
				if err := faults.Print(&got); err != nil {
					t.Fatal(err)
				}
			} else if err != nil {
				t.Fatalf("%T: %v", err, err)
			}
			if strings.Contains(got.String(), "hunter") {
				t.Errorf("a secret was printed:\n%s", got.String())
			}
			golden := strings.TrimSuffix(file, ".hcl") + ".want"
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
}

// TestFull reads a file that sets everything.
func TestFull(t *testing.T) {
	got, err := config.Load("testdata/full.hcl", environment())
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Cluster: "pg",
		Member:  "n1",
		Consul: config.Consul{
			Addresses: []string{"127.0.0.1:8500", "https://consul.example.com:8501"},
			Prefix:    "pgsidecar", TokenFile: "testdata/secrets/token", Token: config.NewSecret("a-token"),
			SessionTTL: 15 * time.Second, TLS: config.ConsulTLS{CAFile: "/etc/consul/ca.pem"},
		},
		Service: config.Service{Name: "pg", Tags: []string{"europe"}, Meta: map[string]string{"rack": "r1"}, Reads: settings.ReadLimits{Lag: 64 << 20, Delay: 30 * time.Second}},
		Postgres: config.Postgres{
			BinDir: "/usr/lib/postgresql/15/bin", DataDir: "/var/lib/pgsidecar/n1", StateDir: "/var/lib/pgsidecar/n1.pgsidecar",
			User: "postgres", Listen: "0.0.0.0:5432", Advertise: "10.0.0.7:5432",
			Superuser:   config.Account{Name: "postgres", PasswordFile: "testdata/secrets/superuser", Password: config.NewSecret("super-pw")},
			Replication: config.Account{Name: "replicator", Password: config.NewSecret("hunter4")},
			Parameters:  map[string]string{"shared_buffers": "4GB", "max_connections": "200", "log_checkpoints": "on"},
			HBA:         []string{"host all all 10.0.0.0/8 scram-sha-256", "host all app 10.1.0.0/16 scram-sha-256"},
			StopTimeout: 30 * time.Second, CloneMethods: []string{config.CloneBaseBackup},
			TLS: config.PostgresTLS{CertFile: "/etc/pgsidecar/pg.crt", KeyFile: "/etc/pgsidecar/pg.key", CAFile: "/etc/pgsidecar/ca.crt", Require: true},
		},
		API: config.API{Listen: "10.0.0.7:8008", Advertise: "10.0.0.7:8008", Token: config.NewSecret("a-token"), UI: true,
			TLS: config.ServerTLS{CertFile: "/etc/pgsidecar/api.crt", KeyFile: "/etc/pgsidecar/api.key",
				ClientCAFile: "/etc/pgsidecar/clients.crt", RequireClient: true, CAFile: "/etc/pgsidecar/ca.crt"}},
		Peers:      config.Peers{Key: config.NewSecret("hunter5")},
		Durability: config.Durability{Mode: ha.ModeQuorum, Standbys: 2, Strict: true, MaxVoters: 4, Zones: 3},
		Failover: config.Failover{FailureTimeout: 1500 * time.Millisecond, FailureTimeoutMin: 900 * time.Millisecond, Lease: 4 * time.Second,
			HandoverTimeout: 20 * time.Second, AgentTimeout: time.Minute, MaxLag: 16 << 20},
		Tags: config.Tags{Priority: 10, NoSync: true, NoLoadBalance: true, CloneFrom: true, ReplicateFrom: "n2", SyncPriority: 2, Own: map[string]string{"zone": "a"}},
		Templates: []config.Template{
			{Name: "haproxy", Builtin: "haproxy", Destination: "/etc/haproxy/haproxy.cfg", Check: []string{"haproxy", "-c", "-f", "{}"},
				Command: []string{"systemctl", "reload", "haproxy"}, Perms: 0o644, Timeout: 30 * time.Second},
			{Name: "more", Source: "/etc/pgsidecar/more.tmpl", Destination: "/etc/haproxy/more.cfg", Reload: "haproxy", Timeout: 30 * time.Second},
			{Name: "mine", Source: "/etc/pgsidecar/mine.tmpl", Destination: "/etc/mine.conf", Timeout: 5 * time.Second},
		},
		HAProxy: config.HAProxy{Socket: "/run/haproxy/admin.sock", Bind: "127.0.0.1", PrimaryPort: 5000, ReplicaPort: 5001,
			MasterSocket: "/run/haproxy-master.sock", Resolvers: []string{"127.0.0.1:8600", "[::1]:8600"}},
		PgBouncer: config.PgBouncer{Address: "127.0.0.1:6432", Database: "app",
			Account: config.Account{Name: "pgbouncer", Password: config.NewSecret("none")}},
		Bootstrap: config.Bootstrap{Initdb: config.DefaultInitdb()},
		Log:       config.Log{Level: "debug", Format: "json"},
	}
	a, b := reflect.ValueOf(*got), reflect.ValueOf(*want)
	for i := range a.NumField() {
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", a.Type().Field(i).Name, a.Field(i), b.Field(i))
		}
	}
}

// TestDefaults reads a file with nothing in it but passwords.
func TestDefaults(t *testing.T) {
	c, err := config.Load("testdata/minimal.hcl", environment())
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []struct{ name, got, want string }{
		{"cluster", c.Cluster, "pg"},
		{"member", c.Member, "db1"},
		{"service", c.Service.Name, "pg"},
		{"consul", strings.Join(c.Consul.Addresses, " "), "127.0.0.1:8500"},
		{"prefix", c.Consul.Prefix, "pgsidecar"},
		{"session_ttl", c.Consul.SessionTTL.String(), "10s"},
		{"data_dir", c.Postgres.DataDir, "/var/lib/pgsidecar/db1"},
		{"state_dir", c.Postgres.StateDir, "/var/lib/pgsidecar/db1.pgsidecar"},
		{"postgres listen", c.Postgres.Listen, "10.0.0.7:5432"},
		{"postgres advertise", c.Postgres.Advertise, "10.0.0.7:5432"},
		{"api", c.API.Listen, "10.0.0.7:8008"},
		{"durability", fmt.Sprint(c.Durability), "{quorum 1 true 0 0}"},
		{"failover", fmt.Sprint(c.Failover), "{true 2s 800ms 5s 10s 30s 0 true}"},
		{"log", fmt.Sprint(c.Log), "{info text}"},
	} {
		if field.got != field.want {
			t.Errorf("%s: got %q, want %q", field.name, field.got, field.want)
		}
	}
}

// TestAsyncNeedsNoStandbys: what quorum needs is kept beside mode async, in case the
// cluster-wide settings say quorum; it is not shown, and no policy has it.
func TestAsyncNeedsNoStandbys(t *testing.T) {
	c := parse(t, `durability { mode = "async" }`)
	if c.Durability != (config.Durability{Mode: ha.ModeAsync, Standbys: 1, Strict: true}) {
		t.Errorf("got %+v", c.Durability)
	}
	var shown strings.Builder
	if err := c.Write(&shown); err != nil || strings.Contains(shown.String(), "standbys") {
		t.Errorf("%v\n%s", err, shown.String())
	}
}

// passwords are what every member's file needs.
const passwords = `
postgres {
  superuser   { password = env("REPLICATION_PASSWORD") }
  replication { password = env("REPLICATION_PASSWORD") }
}
`

func parse(t *testing.T, source string, env ...string) *config.Config {
	t.Helper()
	c, err := config.Parse("testdata/given.hcl", []byte(source+passwords), environment(env...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestConsulEnvironment follows Consul's own programs, and the file counts
// before the environment.
func TestConsulEnvironment(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, source     string
		env              []string
		address, token   string
		tokenFileIsKnown bool
	}{
		{name: "address", env: []string{"CONSUL_HTTP_ADDR=10.9.9.9:8500,10.9.9.8:8500"}, address: "10.9.9.9:8500 10.9.9.8:8500"},
		{name: "address of the file", source: `consul { address = "10.1.1.1:8500" }`, env: []string{"CONSUL_HTTP_ADDR=10.9.9.9:8500"}, address: "10.1.1.1:8500"},
		{name: "token", env: []string{"CONSUL_HTTP_TOKEN=t1"}, token: "t1"},
		{name: "Nomad's token", env: []string{"CONSUL_TOKEN=t2"}, token: "t2"},
		{name: "token's file", env: []string{"CONSUL_HTTP_TOKEN=t1", "CONSUL_HTTP_TOKEN_FILE=" + token}, token: "from-file", tokenFileIsKnown: true},
		{name: "token of the file", source: `consul { token = env("MINE") }`, env: []string{"MINE=t3", "CONSUL_HTTP_TOKEN=t1"}, token: "t3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := parse(t, c.source, c.env...).Consul
			if address := strings.Join(got.Addresses, " "); c.address != "" && address != c.address {
				t.Errorf("address: got %s, want %s", address, c.address)
			}
			if got.Token.Reveal() != c.token {
				t.Errorf("token: got %q, want %q", got.Token.Reveal(), c.token)
			}
			if (got.TokenFile != "") != c.tokenFileIsKnown {
				t.Errorf("token file: got %q", got.TokenFile)
			}
		})
	}
}

// TestTask takes from a scheduler's task what the file does not say.
func TestTask(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"consul_token": "t1", "superuser.password": "s1", "replication.password": "r1"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := environment("CONSUL_TOKEN=t0")
	env.Task = &config.Task{
		Cluster: "orders", DataDir: "/volume/orders", StopTimeout: 20 * time.Second,
		Member: func(stateDir string) (string, error) { return "of-" + filepath.Base(filepath.Dir(stateDir)), nil },
		Port: func(name string) (listen, advertise string) {
			return "0.0.0.0:5432", map[string]string{"postgres": "10.2.0.1:23456", "api": "10.2.0.1:23457"}[name]
		},
		Secret: func(name string) string { return filepath.Join(dir, name) },
	}
	read := func(source string) []string {
		t.Helper()
		c, err := config.Parse("testdata/given.hcl", []byte(source), env)
		if err != nil {
			t.Fatal(err)
		}
		return []string{c.Cluster, c.Service.Name, c.Member, c.Postgres.DataDir, c.Postgres.Listen, c.Postgres.Advertise,
			c.API.Advertise, c.Consul.Token.Reveal(), c.Postgres.Superuser.Password.Reveal(), c.Postgres.Replication.Password.Reveal(),
			c.Postgres.StopTimeout.String(), c.API.TokenFile}
	}
	got := read(`api { listen = "0.0.0.0:8008" }`)
	want := []string{"orders", "orders", "of-volume", "/volume/orders", "0.0.0.0:5432", "10.2.0.1:23456", "10.3.0.7:8008", "t1", "s1", "r1", "20s", ""}
	want[6] = got[6] // this machine's
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	got = read(`cluster = "a"
member = "m"
postgres {
  data_dir  = "/d/a"
  advertise = "10.9.9.9:1"
  superuser { password = env("CONSUL_TOKEN") }
}
consul { token = env("CONSUL_TOKEN") }
api {
  listen    = "0.0.0.0:8008"
  advertise = "10.9.9.9:2"
}
`)
	want = []string{"a", "orders", "m", "/d/a", "0.0.0.0:5432", "10.9.9.9:1", "10.9.9.9:2", "t0", "t0", "r1", "20s", ""}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	env.Task.Member = func(string) (string, error) { return "", os.ErrPermission }
	if _, err := config.Parse("x.hcl", nil, env); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v", err)
	}
}

// TestProxy reads proxy.hcl, which has no server and needs no passwords.
func TestProxy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.hcl")
	write := func(source string) {
		if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`haproxy { socket = "/run/haproxy/admin.sock" }`)
	c, err := config.LoadProxy(path, environment())
	if err != nil || c.HAProxy.Socket != "/run/haproxy/admin.sock" {
		t.Errorf("got %+v, %v", c, err)
	}
	write(`consul { other_datacenter = "dc2" }`)
	if c, err = config.LoadProxy(path, environment()); err != nil || c.Consul.OtherDatacenter != "dc2" {
		t.Errorf("got %+v, %v", c, err)
	}
	var text strings.Builder
	if err := c.Write(&text); err != nil || !strings.Contains(text.String(), `other_datacenter = "dc2"`) {
		t.Errorf("written as %s, %v", text.String(), err)
	}
	for source, want := range map[string]string{
		`consul { other_datacenter = "d c" }`:                             "expected letters, digits, hyphens and underscores",
		"consul {\n datacenter = \"dc1\"\n other_datacenter = \"dc1\"\n}": "is this site's own",
	} {
		write(source)
		if _, err := config.LoadProxy(path, environment()); !errors.Is(err, config.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", source, err)
		}
	}
	write(`postgres { }`)
	if _, err := config.LoadProxy(path, environment()); !errors.Is(err, config.ErrConfig) || !strings.Contains(err.Error(), `unknown block "postgres"`) {
		t.Errorf("got %v", err)
	}
}

// TestSecretIsNotPrinted tries every way that a log or an error might print.
func TestSecretIsNotPrinted(t *testing.T) {
	s := config.NewSecret("hunter2")
	inside := config.Account{Name: "postgres", Password: s}
	text, err := json.Marshal(inside)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{s, &s, inside, &inside} {
			text = append(text, fmt.Sprintf(format, v)...)
		}
	}
	if strings.Contains(string(text), "hunter2") || strings.Contains(string(text), fmt.Sprintf("%x", "hunter2")) {
		t.Errorf("printed: %s", text)
	}
}

// TestNoFile says which file, and is an error of the configuration.
func TestNoFile(t *testing.T) {
	_, err := config.Load("testdata/nowhere.hcl", environment())
	if !errors.Is(err, config.ErrConfig) || err.Error() != "testdata/nowhere.hcl: cannot be read: no such file or directory" {
		t.Errorf("got %v", err)
	}
}

// TestSecureConsul: Consul's own variables for HTTPS count, and are not guessed at.
func TestSecureConsul(t *testing.T) {
	minimal, err := os.ReadFile("testdata/minimal.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ssl, verify              string
		secure, insecure, refuse bool
	}{{}, {ssl: "true", secure: true}, {ssl: "1", verify: "false", secure: true, insecure: true}, {ssl: "0", verify: "1"}, {ssl: "yes please", refuse: true}, {verify: "never", refuse: true}} {
		env := environment()
		getenv := env.Getenv
		env.Getenv = func(name string) string {
			switch name {
			case "CONSUL_HTTP_SSL":
				return c.ssl
			case "CONSUL_HTTP_SSL_VERIFY":
				return c.verify
			}
			return getenv(name)
		}
		got, err := config.Parse("testdata/pg.hcl", minimal, env)
		if c.refuse != (err != nil) || err == nil && (got.Consul.Secure != c.secure || got.Consul.TLS.Insecure != c.insecure) {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	}
}

// TestUnusedOfConsul: what Consul's own programs would heed and we do not is refused, not
// left out.
func TestUnusedOfConsul(t *testing.T) {
	minimal, err := os.ReadFile("testdata/minimal.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for variable, says := range map[string]string{
		"CONSUL_HTTP_AUTH=user:secret": "CONSUL_HTTP_AUTH is set", "CONSUL_CAPATH=/etc/ssl": "name it in CONSUL_CACERT",
		"CONSUL_NAMESPACE=team": "namespace default", "CONSUL_PARTITION=east": "partition default",
		"CONSUL_NAMESPACE=default": "", "CONSUL_PARTITION=": "", "CONSUL_CACERT=": "",
	} {
		env := environment()
		getenv := env.Getenv
		env.Getenv = func(name string) string {
			if set, value, _ := strings.Cut(variable, "="); set == name {
				return value
			}
			return getenv(name)
		}
		_, err := config.Parse("testdata/pg.hcl", minimal, env)
		if (says == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "secret\"")) {
			t.Errorf("%s: %v", variable, err)
		}
	}
}

// TestReload tells what a reload takes over from what needs a restart.
func TestReload(t *testing.T) {
	running := parse(t, "")
	for _, c := range []struct {
		name, source string
		want         []string
	}{
		{"nothing", "", nil},
		{"a level", `log { level = "debug" }`, nil},
		{"a tag", "tags { nofailover = true }", nil},
		{"a timeout", `failover { failure_timeout = "1s" }`, nil},
		{"the lease", `failover { lease = "6s" }`, []string{"failover"}},
		{"the name", `member = "other"`, []string{"member", "postgres"}},
		{"an address", `api { listen = "10.0.0.7:9999" }`, []string{"api"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := running.NeedsRestart(parse(t, c.source)); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// FuzzParse: no input makes it panic, and a faulty one has diagnostics.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.hcl")
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		c, err := config.Parse("testdata/fuzz.hcl", source, environment())
		var faults *config.Error
		if (c == nil) != errors.As(err, &faults) {
			t.Errorf("got %v, %v", c, err)
		}
		if faults != nil && len(faults.Diagnostics) == 0 {
			t.Error("a fault without a diagnostic")
		}
	})
}

// TestBackups reads blocks of backups.
func TestBackups(t *testing.T) {
	c, err := config.Load("testdata/backup.hcl", environment())
	if err != nil || len(c.Backups) != 2 {
		t.Fatalf("got %v, %v", c, err)
	}
	main, rows := c.Backups[0], c.Backups[1]
	repository := config.Repository{Type: "s3", Path: "/pg", KeyFile: "testdata/secrets/token",
		Options: map[string]string{"s3-bucket": "b", "s3-region": "r"}, SecretFiles: map[string]string{"s3-key-secret": "testdata/secrets/token"}}
	if !reflect.DeepEqual(main.Repository, repository) || main.From != backup.OnlyReplica || main.MaxLag != 30*time.Second || main.Processes != 1 ||
		main.Retention != (backup.Retention{Window: 14 * 24 * time.Hour}) || main.Verify != "@weekly" || len(main.Schedules) != 2 {
		t.Errorf("got %+v", main)
	}
	if incr := main.Schedules[1]; incr.Kind != backup.Incremental || incr.String() != "CRON_TZ=Europe/Berlin 30 2 * * 1-6" {
		t.Errorf("got %s %q", incr.Kind, incr)
	}
	if f := c.Bootstrap.FromBackup; f == nil || f.Cluster != "old" || f.Label != "20260228-023000F" || f.Kind != backup.ToTime || f.Value != "2026-03-01 12:00:00+01" {
		t.Errorf("got %+v", f)
	}
	if rows.From != backup.PreferReplica || rows.Format != "custom" || !slices.Equal(rows.Databases, []string{"app"}) || rows.Schedules[0].Kind != backup.Logical {
		t.Errorf("got %+v", rows)
	}
}
