package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func TestPromise(t *testing.T) {
	m := newMember(t, "n1")
	for _, x := range []struct {
		term   uint64
		to     string
		fenced bool
		want   error
		kept   string // whose the term is, on disk
	}{{3, "n1", true, nil, "n1"}, {3, "n1", true, nil, "n1"}, {2, "n2", true, ErrPromised, "n1"}, {3, "", false, nil, "n1"}, {3, "n2", true, nil, "n1"}, {3, "n2", false, nil, "n2"},
		{9, "", true, nil, ""}, {8, "n1", false, ErrPromised, ""}} {
		if err := m.Promise(x.term, x.to, x.fenced); !errors.Is(err, x.want) {
			t.Fatalf("promise %d: %v, want %v", x.term, err, x.want)
		}
		if f := m.inspect(); f.PromisedTo != x.kept {
			t.Errorf("promise %d to %q: it is kept as one to %q, want %q", x.term, x.to, f.PromisedTo, x.kept)
		}
	}
	if f := m.inspect(); f.Promise != 9 || !f.Fenced || f.DataDir != ha.DataAbsent {
		t.Fatalf("%+v", f)
	}
	must(t, os.WriteFile(m.state("promise"), []byte(`{"term":`), 0o600))
	if _, err := m.Inspect(soon(t)); err == nil {
		t.Fatal("a damaged promise was taken for one")
	}
	if err := m.Promise(10, "", true); err == nil {
		t.Fatal("a damaged promise was replaced")
	}
}

// What is not ours is left as it is, byte for byte.
func TestForeign(t *testing.T) {
	for name, content := range map[string]map[string]string{
		"not PostgreSQL": {"precious": "data"},
		"newer":          {"PG_VERSION": "99\n", "global/pg_control": "?"},
		"no control":     {},
		"empty control":  {"global/pg_control": ""},
		"zeroed control": {"global/pg_control": strings.Repeat("\x00", 8192)},
		"odd version":    {"PG_VERSION": "9.6\n"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t, "n1")
			control := strings.HasSuffix(name, "control")
			if control {
				content["PG_VERSION"] = fmt.Sprintln(m.version)
			}
			for file, text := range content {
				path := m.data(file)
				must(t, os.MkdirAll(filepath.Dir(path), 0o755))
				must(t, os.WriteFile(path, []byte(text), 0o644))
			}
			if control {
				must(t, os.Chown(m.o.DataDir, int(m.uid), int(m.gid)))
			}
			f := m.inspect()
			if f.DataDir != ha.DataForeign || f.Problem == "" || control && !strings.Contains(f.Problem, "mv "+m.o.DataDir+" ") {
				t.Fatalf("%+v", f)
			}
			t.Log(f.Problem)
			if err := m.Init(soon(t)); !errors.Is(err, ErrNotEmpty) {
				t.Errorf("init: %v", err)
			}
			for what, err := range map[string]error{"start": m.Start(soon(t), StartOptions{}), "clone": m.Clone(soon(t), Source{Member: "n2"}, nil)} {
				if err == nil {
					t.Errorf("%s was not refused", what)
				}
			}
			must(t, m.Discard(soon(t)))
			for file, text := range content {
				if got, err := os.ReadFile(m.data(file)); err != nil || string(got) != text {
					t.Errorf("%s is now %q, %v", file, got, err)
				}
			}
		})
	}
}

// An initialized server of another hand is adopted: its files stay as they are
// and count.
func TestAdopt(t *testing.T) {
	m := newMember(t, "n1")
	must(t, m.Init(soon(t)))
	conf := "work_mem = '33MB'\nport = 1\nwal_keep_size = '48MB'\n"
	hba := "host all all 127.0.0.1/32 trust\n"
	must(t, os.WriteFile(m.data("postgresql.conf"), []byte(conf), 0o600))
	must(t, os.WriteFile(m.data("pg_hba.conf"), []byte(hba), 0o600))
	must(t, os.WriteFile(m.data("postgresql.auto.conf"), []byte("work_mem = '34MB'\nprimary_conninfo = 'host=elsewhere'\nrecovery_target_time = 'x'\n"), 0o600))
	must(t, m.Start(soon(t), StartOptions{Primary: true, Sync: ha.SyncSetting{K: 1, Names: []string{`n"2`, "n3"}}}))
	m.up()
	for query, want := range map[string]string{"show work_mem": "34MB", "show wal_keep_size": "64MB", "show primary_conninfo": "",
		"select pg_size_bytes(current_setting('max_slot_wal_keep_size')) <= 16 * 1024 ^ 3": "t", "show synchronous_standby_names": `ANY 1 ("n""2", "n3")`,
		"select count(*) from pg_hba_file_rules where auth_method = 'trust'": "1"} {
		if got := m.sql(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	for file, want := range map[string]string{"postgresql.conf": conf, "pg_hba.conf": hba} {
		if got, err := os.ReadFile(m.data(file)); err != nil || string(got) != want {
			t.Errorf("%s was changed: %v\n%s", file, err, got)
		}
	}
}

// TestBoundLines: what is kept for members that are away leaves most of the disk to the rest.
func TestBoundLines(t *testing.T) {
	for disk, want := range map[int64][]string{
		0:         {"wal_keep_size = 512MB", "max_slot_wal_keep_size = 16384MB"}, // not known
		2 << 40:   {"wal_keep_size = 512MB", "max_slot_wal_keep_size = 16384MB"},
		20 << 30:  {"wal_keep_size = 512MB", "max_slot_wal_keep_size = 5120MB"},
		1 << 30:   {"wal_keep_size = 64MB", "max_slot_wal_keep_size = 256MB"},
		512 << 10: {"wal_keep_size = 512MB", "max_slot_wal_keep_size = 16384MB"}, // no disk is that small
	} {
		if got := boundLines(disk); !slices.Equal(got, want) {
			t.Errorf("a disk of %d bytes: %q, want %q", disk, got, want)
		}
	}
}

func TestStalePID(t *testing.T) {
	m := newMember(t, "n1")
	must(t, m.Init(soon(t)))
	must(t, m.write(m.data("postmaster.pid"), []byte("1\n"))) // it lives, and is no server
	must(t, m.Start(soon(t), StartOptions{Primary: true}))
	m.up()
}

func TestLastWords(t *testing.T) {
	m := newMember(t, "n1", func(o *Options) { o.Parameters = map[string]string{"shared_buffers": "999TB"} })
	must(t, m.Init(soon(t)))
	err := m.Start(soon(t), StartOptions{Primary: true})
	if err == nil {
		<-m.guard.done
		if words := m.LastWords(); !strings.Contains(words, "shared") {
			t.Errorf("last words %q", words)
		}
		return
	}
	if !errors.Is(err, ErrSetting) {
		t.Fatal(err)
	}
}

func TestKilledInit(t *testing.T) {
	m := newMember(t, "n1")
	killed(t, m.o, "initdb make", "KILL_DO=init")
	if f := m.inspect(); f.DataDir != ha.DataHalfMade {
		t.Fatalf("%+v", f)
	}
	must(t, m.Discard(soon(t)))
	must(t, m.Init(soon(t)))
	if left, _ := filepath.Glob(m.state("*password*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestParseHistory(t *testing.T) {
	got, err := parseHistory([]byte(placeholder + "1\t0/3000148\tno recovery target specified\n\n2\t1/A0\tx\n"))
	must(t, err)
	if len(got) != 2 || got[0] != (ha.Fork{TLI: 1, End: 0x3000148}) || got[1] != (ha.Fork{TLI: 2, End: 1<<32 | 0xA0}) {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"x", "1 y", "2 0/1\n1 0/2\n"} {
		if _, err := parseHistory([]byte(bad)); !errors.Is(err, ha.ErrSyntax) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOptions(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"member":    func(o *Options) { o.Member = "n 1" },
		"relative":  func(o *Options) { o.DataDir = "data" },
		"inside":    func(o *Options) { o.StateDir = filepath.Join(o.DataDir, "state") },
		"listen":    func(o *Options) { o.Listen = "here" },
		"parameter": func(o *Options) { o.Parameters = map[string]string{"port": "1"} },
		"user":      func(o *Options) { o.User = "nobody-of-that-name" },
		"root":      func(o *Options) { o.User = "root" },
		"programs":  func(o *Options) { o.BinDir = "/nowhere" },
	} {
		o := testOptions(t, testDir(t), "n1", 1, &testGuard{})
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: taken", name)
		} else {
			t.Log(err)
		}
	}
	long := socketDir("/" + strings.Repeat("x", 100))
	if len(long) > maxSocketDir {
		t.Errorf("%s is too long", long)
	}
}

// TestTLSRequired: between members only TLS, and the server's certificate is ours.
func TestTLSRequired(t *testing.T) {
	s := &Server{log: hclog.NewNullLogger(), o: Options{Listen: "127.0.0.1:5432", DataDir: t.TempDir(), StateDir: t.TempDir(), SuperuserName: "postgres", ReplicationName: "replicator",
		TLS: TLS{CertFile: "/c", KeyFile: "/k", CAFile: "/ca", Require: true}}}
	conf := s.render(Settings{}, "/user.conf")
	for _, want := range []string{"ssl = 'on'", "ssl_cert_file = '/c'", "ssl_key_file = '/k'", "ssl_ca_file = '/ca'"} {
		if !strings.Contains(conf, want) {
			t.Errorf("no %s in\n%s", want, conf)
		}
	}
	hba, err := s.renderHBA(t.Context(), Settings{HBA: []string{"host all all 0.0.0.0/0 scram-sha-256"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	refused, users := strings.Index(hba, `hostnossl all "replicator" all reject`), strings.Index(hba, "host all all")
	if refused < 0 || users < refused || strings.Contains(hba, `host  replication`) {
		t.Errorf("pg_hba.conf is\n%s", hba)
	}
	if info := s.conninfo(Source{Host: "n2.example", Port: 5432}, ""); !strings.Contains(info, "sslmode='verify-full' sslrootcert='/ca'") {
		t.Errorf("conninfo %s", info)
	}
}

// Nothing of the sidecar's own environment gets to PostgreSQL: no secret, nothing that
// libpq reads, and no NOTIFY_SOCKET, by which the server would tell systemd that the
// member is ready or ends (Patroni hid it from 4.1 on).
func TestEnvironment(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "CONSUL_HTTP_TOKEN", "PGPASSWORD", "PGHOST", "LD_PRELOAD"} {
		t.Setenv(name, "a value of the sidecar's")
	}
	s := &Server{o: Options{BinDir: "/bin", User: "postgres"}, account: account{home: "/"}}
	s.o.WAL.Environment = Inherited(os.Environ(), nil)
	for _, variable := range s.environment() {
		if strings.Contains(variable, "a value of the sidecar's") {
			t.Errorf("PostgreSQL gets %s", variable)
		}
	}
}

// TestForgottenGroup: a program that was killed with its sidecar before its process group
// was noted must not be looked for under the number that an earlier one had: that may be
// anybody's by now.
func TestForgottenGroup(t *testing.T) {
	m := newMember(t, "n1")
	must(t, m.MakeState())
	innocent := exec.Command("sleep", "60")
	innocent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, innocent.Start())
	ended := make(chan error, 1)
	go func() { ended <- innocent.Wait() }()
	t.Cleanup(func() { _ = innocent.Process.Kill() })
	must(t, os.WriteFile(m.state("programs.group"), []byte(strconv.Itoa(innocent.Process.Pid)), 0o600))
	held, err := m.lockPrograms(t.Context()) // as the program that was killed inherits it
	must(t, err)
	defer held.Close()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.lockPrograms(short); err == nil {
		t.Error("locked twice")
	}
	select {
	case <-ended:
		t.Error("a process that has nothing to do with it was killed")
	default:
	}
}
