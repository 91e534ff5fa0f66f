package postgres

import (
	"slices"
	"strings"
	"testing"
)

// TestInherited: what people set for the service gets to the server, as it does from
// systemd; what is secret, or would change what the server and its programs do, does not.
func TestInherited(t *testing.T) {
	secrets := []string{"the consul token", "short"}
	for variable, want := range map[string]bool{
		"AWS_ACCESS_KEY_ID=x": true, "AWS_SECRET_ACCESS_KEY=y": true, "WALG_S3_PREFIX=s3://b": true, "PGBACKREST_STANZA=main": true,
		"GOOGLE_APPLICATION_CREDENTIALS=/g.json": true, "AZURE_STORAGE_KEY=k": true, "LD_LIBRARY_PATH=/opt/x": true, "HTTPS_PROXY=http://p": true,
		"PATH=/opt/bin": true, "HOME=/home/pg": true, "LANG=de_DE.UTF-8": true, "TZ=UTC": true, "NOMAD_ALLOC_ID=a": true, "EMPTY=": true,

		"CONSUL_HTTP_TOKEN=t": false, "CONSUL_TOKEN=t": false, "NOMAD_TOKEN=t": false, "VAULT_TOKEN=t": false, "PGSIDECAR_TOKEN=t": false,
		"OTEL_EXPORTER_OTLP_HEADERS=t": false, "MY_TOKEN=the consul token": false, "MY_DSN=x=the consul token;": false, "MY_PASSWORD=short": false, "WORDS=a short one": true,
		"PGHOST=h": false, "PGPASSWORD=p": false, "PGDATA=/d": false, "PG_COLOR=always": false, "PG_GRANDPARENT_PID=1": false,
		"NOTIFY_SOCKET=/n": false, "LISTEN_FDS=1": false, "GOMAXPROCS=1": false, "LC_ALL=de_DE": false, "LC_MESSAGES=de_DE": false, "LANGUAGE=de": false, "LD_PRELOAD=/x.so": false,
		"USER=root": false, "PWD=/root": false, "no assignment": false, "=x": false,
	} {
		if got := slices.Contains(Inherited([]string{variable}, secrets), variable); got != want {
			t.Errorf("%s: passed on %v, want %v", variable, got, want)
		}
	}
}

// TestServiceEnvironment: archive_command finds the service's variables; what PostgreSQL needs
// stays as it is, and root's home is not the server's user's.
func TestServiceEnvironment(t *testing.T) {
	s := &Server{o: Options{BinDir: "/pg/bin", StateDir: "/state", User: "pg"}, account: account{home: "/home/pg", switchID: true}}
	s.o.WAL.Environment = []string{"AWS_REGION=eu", "PATH=/opt/bin", "HOME=/root"}
	got := s.environment()
	for _, want := range []string{"AWS_REGION=eu", "PATH=/pg/bin:/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home/pg", "USER=pg", "LC_ALL=C.UTF-8"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not in the environment: %q", want, got)
		}
	}
	names := map[string]bool{}
	for _, variable := range got {
		name, _, _ := strings.Cut(variable, "=")
		if names[name] {
			t.Errorf("%s is there twice: %q", name, got)
		}
		names[name] = true
	}
	if s.switchID = false; !slices.Contains(s.environment(), "HOME=/root") {
		t.Errorf("the service's own user: its HOME is not passed on: %q", s.environment())
	}
}
