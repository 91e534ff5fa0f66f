package postgres

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// badStarts are values that keep a server from starting, or from taking a reload, and what
// is to be said of each.
var badStarts = map[string]struct{ text, says string }{
	"an unclosed quote":        {"work_mem = '64MB\n", "syntax error"},
	"an unknown name":          {"max_conections = 3\n", "max_conections"},
	"a refused value":          {"work_mem = 12XB\n", "12XB"},
	"a lost library":           {"shared_preload_libraries = 'nosuch'\n", `could not access file "nosuch"`},
	"too little log":           {"wal_level = minimal\n", "wal_level"},
	"a lost certificate":       {"ssl_cert_file = '/nowhere/server.crt'\nssl = on\n", "/nowhere/server.crt"},
	"more memory than is":      {"max_locks_per_transaction = 20000000\n", "shared memory"},
	"more reserved than is":    {"superuser_reserved_connections = 5000\n", "superuser_reserved_connections"},
	"a group that is not here": {"unix_socket_group = 'nosuch'\n", "unix_socket_group"},
	"a folder that cannot be":  {"log_directory = '/proc/nowhere'\nlogging_collector = on\n", "/proc/nowhere"},
	"abbreviations of nobody":  {"timezone_abbreviations = 'nosuch'\n", "nosuch"},
}

// TestBadStarts: such a value in a file of conf.d or ALTER SYSTEM's, written while the server
// runs or while it is stopped, keeps it from nothing: it is controlled, ends and starts, with
// the other values, and the value is named.
func TestBadStarts(t *testing.T) {
	m := newPrimary(t, "n1")
	if m.version < 15 {
		t.Skip("such a server cannot be tried")
	}
	must(t, errors.Join(os.Mkdir(m.data("conf.d"), 0o700), m.own(m.data("conf.d"))))
	put := func(name, text string) {
		t.Helper()
		must(m.t, m.write(m.data(name), []byte(text)))
	}
	m.append("postgresql.conf", "include_dir 'conf.d'\n")
	whole := map[string]string{filepath.Join("conf.d", "9.conf"): "work_mem = 7MB\n", autoFile: "# by ALTER SYSTEM\nmaintenance_work_mem = '33MB'\n"}
	start := func() {
		t.Helper()
		must(m.t, m.Start(soon(m.t), StartOptions{}))
		m.up() // the guard has started it once
		if got := m.sql("select current_setting('work_mem') || current_setting('maintenance_work_mem')"); got != "7MB33MB" {
			m.t.Errorf("the other values are %s", got)
		}
	}
	for name, text := range whole {
		put(name, text)
	}
	must(t, m.Stop(soon(t), true))
	start()
	for file, text := range whole {
		for name, bad := range badStarts {
			t.Run(filepath.Base(file)+"/"+name, func(t *testing.T) {
				m.t = t
				put(file, text+bad.text)
				must(t, m.Refresh(soon(t)))
				m.sql("select pg_reload_conf()")
				m.controls("host=" + strings.ReplaceAll(name, " ", "."))
				if said := m.ConfigProblem(); !strings.Contains(said, bad.says) || !strings.Contains(said, file) && !strings.Contains(said, "ALTER SYSTEM") {
					t.Errorf("while it runs it says %q, want %q", said, bad.says)
				}
				must(t, m.Stop(soon(t), true))
				start()
				if said := m.ConfigProblem(); !strings.Contains(said, bad.says) || !strings.Contains(said, file) {
					t.Errorf("after a start it says %q, want %q of %s", said, bad.says, file)
				}
				put(file, text)
				must(t, m.remove(m.state(refusedAuto)))
				must(t, m.Refresh(soon(t)))
				if said := m.ConfigProblem(); said != "" {
					t.Errorf("mended, it says %q", said)
				}
				must(t, m.Stop(soon(t), true))
				put(file, text+bad.text)
				start()
				if said := m.ConfigProblem(); !strings.Contains(said, bad.says) || !strings.Contains(said, file) {
					t.Errorf("written while it was stopped it says %q, want %q of %s", said, bad.says, file)
				}
				put(file, text)
				must(t, m.remove(m.state(refusedAuto)))
				must(t, m.Refresh(soon(t)))
				if said := m.ConfigProblem(); said != "" {
					t.Errorf("mended again, it says %q", said)
				}
			})
		}
	}
}

// TestPresetUnbearable: settings of the cluster that this member's server would not start with
// are refused, and it starts with those before.
func TestPresetUnbearable(t *testing.T) {
	m := newPrimary(t, "n1")
	if m.version < 15 {
		t.Skip("such a server cannot be tried")
	}
	must(t, m.Stop(soon(t), false))
	bad := Settings{Parameters: map[string]string{"shared_buffers": "16MB", "shared_preload_libraries": "nosuch", "work_mem": "9MB"}}
	if err := m.Preset(soon(t), bad); !errors.Is(err, ErrSetting) || !strings.Contains(err.Error(), `"nosuch"`) {
		t.Errorf("refused: %v", err)
	}
	bad.Parameters["shared_preload_libraries"] = ""
	must(t, m.Preset(soon(t), bad))
	must(t, m.Start(soon(t), StartOptions{Primary: true}))
	m.up()
	if got := m.sql("show work_mem"); got != "9MB" {
		t.Errorf("work_mem is %s", got)
	}
}

// TestTrialFindsFiles: what settings name relative to the data directory is found by a trial.
func TestTrialFindsFiles(t *testing.T) {
	m := newPrimary(t, "n1")
	certificate, key := selfSigned(t)
	must(t, errors.Join(m.write(m.data("server.crt"), certificate), m.write(m.data("server.key"), key)))
	must(t, m.Try(soon(t), Settings{Parameters: map[string]string{"ssl": "on"}}))
	must(t, m.remove(m.data("server.key")))
	if err := m.Try(soon(t), Settings{Parameters: map[string]string{"ssl": "on"}}); m.version >= 15 && !errors.Is(err, ErrSetting) {
		t.Errorf("without its key: %v", err)
	}
}

// selfSigned makes a certificate and its key.
func selfSigned(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(t, err)
	inside, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: inside})
}
