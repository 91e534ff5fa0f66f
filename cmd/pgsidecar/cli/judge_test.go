package cli

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/sidecar/member"
)

var judged = flag.Int("judge.files", 300, "how many files TestOneJudge makes")

// piece is a line of a configuration: in which block, and whether it is right by itself.
type piece struct {
	block, line string
	broken      bool
}

// parts are given to parameters, as a line there or as a cluster-wide setting.
var parts = [][2]string{
	{"work_mem", "4MB"}, {"max_connections", "120"}, {"log_checkpoints", "off"}, {"my.own", "x"}, {"wal_level", "logical"},
	{"shared_preload_libraries", "auto_explain"}, {"archive_command", "cp %p '/a/%f'"}, {"zero_damaged_pages", "off"},
	{"max_conections", "100"}, {"work_mem", "12XB"}, {"max_connections", "0"}, {"log_checkpoints", "maybe"},
	{"shared_preload_libraries", "nosuch"}, {"transaction_timeouts", "3s"}, {"restore_command", "cp /a/%f %p"}, {"fsync", "off"},
	{"restart_after_crash", "on"}, {"wal_log_hints", "off"}, {"wal_receiver_timeout", "1min"}, {"wal_level", "minimal"},
	{"synchronous_commit", "off"}, {"recovery_target_time", "2026-01-01"}, {"hot_standby", "off"}, {"port", "5433"}, {"block_size", "8192"},
	{"Work_Mem", "8MB"}, {"allow_alter_system", "off"}, {"unix_socket_directories", "sockets"}, {"unix_socket_directories", "/tmp"},
}

// pieces are of the rest of the file; DIR is where it is.
var pieces = []piece{
	{"", `member = "n1"`, false}, {"", `member = "N 1"`, true}, {"", `colour = "red"`, true},
	{"service", `tags = ["europe"]`, false}, {"service", `tags = ["primary"]`, true}, {"service", `name = "pg 2"`, true},
	{"postgres", `hba = ["host all all 10.0.0.0/8 scram-sha-256"]`, false}, {"postgres", `hba = ["host all all 10.0.0.0/8 sram"]`, true},
	{"postgres", `hba = ["host all all 10.0.0.0/8 peer"]`, true}, {"postgres", `stop_timeout = "10s"`, false}, {"postgres", `stop_timeout = "soon"`, true},
	{"postgres", `state_dir = "DIR/data/state"`, true}, {"postgres", `state_dir = "DIR/state"`, false}, {"postgres", `user = "root"`, true},
	{"postgres", `user = "nobody-of-that-name"`, true}, {"postgres", `bin_dir = "DIR"`, true}, {"postgres", `advertise = "0.0.0.0:5432"`, true},
	{"postgres.tls", "cert_file = \"DIR/gone.crt\"\n key_file = \"DIR/gone.key\"", true}, {"postgres.tls", `cert_file = "DIR/pg.crt"`, true},
	{"postgres.tls", `ca_file = "DIR/secret"`, true},
	{"api.tls", "cert_file = \"DIR/secret\"\n key_file = \"DIR/secret\"", true},
	{"tags", `nofailover = true`, false}, {"tags", `replicatefrom = "n1"`, true}, {"tags", `priority = -1`, true}, {"tags", `replicatefrom = "n2"`, false},
	{"durability", `standbys = 2`, false}, {"durability", `standbys = 0`, true}, {"durability", `standbys = 17`, true},
	{"failover", `lease = "5s"`, false}, {"failover", `lease = "1s"`, true}, {"failover", `max_lag = "16 apples"`, true},
	{"log", `level = "debug"`, false}, {"log", `level = "loud"`, true},
	{`template "a"`, "source = \"DIR/gone.tmpl\"\n destination = \"DIR/out\"", true}, {`template "a"`, "builtin = \"haproxy.cfg\"\n destination = \"DIR/out\"", false},
	{`template "a"`, "builtin = \"haproxy.cfg\"\n destination = \"DIR/out\"\n group = \"nobody-of-that-name\"", true},
	{`template "a"`, "builtin = \"haproxy.cfg\"\n destination = \"DIR/out\"\n user = \"nobody-of-that-name\"", true},
	{`hook "a"`, "on = \"primary\"\n command = [\"/bin/true\"]\n user = \"nobody-of-that-name\"", true}, {`hook "a"`, "on = \"primary\"\n command = [\"/bin/true\"]", false},
	{`template "a"`, "builtin = \"nginx\"\n destination = \"DIR/out\"", true}, {`template "a"`, "source = \"DIR/bad.tmpl\"\n destination = \"DIR/out\"", true},
}

// draw makes a file of some pieces, and says which parameters it has.
func draw(r *rand.Rand, dir, bin string) (text string, given map[string]string) {
	blocks := map[string][]string{}
	order := []string{"", "postgres", "api", "durability"}
	add := func(block, line string) {
		if _, is := blocks[block]; !is && block != "" && block != "postgres" && block != "api" && block != "durability" {
			order = append(order, block)
		}
		blocks[block] = append(blocks[block], line)
	}
	add("", `cluster = "pg"`)
	add("postgres", "data_dir = \""+dir+"/data\"\n listen = \"127.0.0.1:5432\"\n superuser {\n  password_file = \""+dir+"/secret\"\n }\n replication {\n  password_file = \""+dir+"/secret\"\n }")
	add("api", `listen = "127.0.0.1:8008"`)
	taken := map[string]bool{}
	rightOnly := r.IntN(3) == 0
	for range r.IntN(6) {
		p := pieces[r.IntN(len(pieces))]
		key, _, _ := strings.Cut(p.line, " =")
		if p.broken && rightOnly || taken[p.block+key] || strings.HasSuffix(p.block, ` "a"`) && taken[p.block] {
			continue
		}
		taken[p.block+key], taken[p.block] = true, true
		add(p.block, strings.ReplaceAll(p.line, "DIR", dir))
	}
	if !taken["member"] {
		add("", `member = "n1"`)
	}
	if !taken["postgresbin_dir"] {
		add("postgres", "bin_dir = \""+bin+"\"")
	}
	given = map[string]string{}
	for range r.IntN(5) {
		n := len(parts)
		if rightOnly {
			n = 8 // the first are right
		}
		p := parts[r.IntN(n)]
		given[p[0]] = p[1]
	}
	line := "parameters = {\n"
	for name, value := range given {
		line += fmt.Sprintf("  %q = %q\n", name, strings.ReplaceAll(value, "%", "%%"))
	}
	add("postgres", strings.ReplaceAll(line, "%%", "%")+" }")
	for _, block := range order {
		inner := strings.Join(blocks[block], "\n ")
		switch name, sub, nested := strings.Cut(block, "."); {
		case block == "":
			text += inner + "\n"
		case nested:
			text = strings.Replace(text, "\n"+name+" {\n", "\n"+name+" {\n "+sub+" {\n "+inner+"\n }\n", 1)
		case inner != "":
			text += block + " {\n " + inner + "\n}\n"
		}
	}
	return text, given
}

// agree holds config validate, run and the cluster-wide settings to one verdict about a
// file, and returns whether it is right.
func agree(t *testing.T, dir, text string, given map[string]string, bin string) bool {
	file := filepath.Join(dir, "pg.hcl")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, said := command(t, "config", "validate", "-config", file)
	if code != ExitOK && code != ExitUsage || code == ExitOK != strings.Contains(out, "good") {
		t.Fatalf("validate: status %d, %s%s\n%s", code, out, said, text)
	}
	var starts string
	startCode := ExitOK
	if code == ExitOK { // the command would run it
		if _, err := member.New(file, "unknown", io.Discard); err != nil {
			startCode, starts = ExitUsage, err.Error()
		}
	} else {
		startCode, _, starts = command(t, "run", "-config", file)
	}
	if startCode != code || starts != said {
		t.Errorf("validate: status %d\n%s\nrun: status %d\n%s\n%s", code, said, startCode, starts, text)
	}
	raw, err := json.Marshal(map[string]any{"parameters": given})
	if err != nil {
		t.Fatal(err)
	}
	_, err = member.JudgeSettings(t.Context(), raw, 0, bin)
	refused := strings.Contains(said, ": parameter ")
	if unread := strings.Contains(said, "cannot be asked"); err != nil != refused && !unread || err != nil && !unread && !strings.Contains(said, err.Error()) {
		t.Errorf("the settings say %v, validate\n%s\n%s", err, said, text)
	}
	return code == ExitOK
}

// TestOneJudge: config validate, run and settings refuse the same files, with the same
// words.
func TestOneJudge(t *testing.T) {
	dir, bin := judgeDir(t)
	right, random := 0, rand.New(rand.NewPCG(11, 11))
	for range *judged {
		text, given := draw(random, dir, bin)
		if agree(t, dir, text, given, bin) {
			right++
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d files, %d of them right: one verdict on each", *judged, right)
	if right < *judged/20 || right > *judged*19/20 {
		t.Errorf("%d of %d files are right: the pieces try nothing", right, *judged)
	}
}

// FuzzOneJudge: as TestOneJudge, from seeds of one's own.
func FuzzOneJudge(f *testing.F) {
	dir, bin := judgeDir(f)
	for seed := range uint64(3) {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b uint64) {
		text, given := draw(rand.New(rand.NewPCG(a, b)), dir, bin)
		agree(t, dir, text, given, bin)
	})
}

// judgeDir has the files that the pieces name.
func judgeDir(t testing.TB) (dir, bin string) {
	bin, err := programs.PostgresBin()
	if err != nil {
		t.Skip(err)
	}
	dir = t.TempDir()
	for name, text := range map[string]string{"secret": "secret", "pg.crt": "no certificate", "bad.tmpl": "{{ nosuch }}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, bin
}

// TestValidateElsewhere: what is on another machine is not looked at, and that is said.
func TestValidateElsewhere(t *testing.T) {
	dir, _ := judgeDir(t)
	text := "member = \"n1\"\npostgres {\n data_dir = \"/d\"\n listen = \"127.0.0.1:5432\"\n bin_dir = \"/nowhere/bin\"\n" +
		" superuser {\n password_file = \"" + dir + "/secret\"\n }\n replication {\n password_file = \"" + dir + "/secret\"\n }\n" +
		" parameters = { max_conections = 1 }\n}\napi {\n listen = \"127.0.0.1:8008\"\n}\n"
	file := filepath.Join(dir, "else.hcl")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, said := command(t, "config", "validate", "-config", file); code != ExitUsage || !strings.Contains(said, "cannot be asked") {
		t.Errorf("status %d, %s", code, said)
	}
	if code, out, said := command(t, "config", "validate", "--elsewhere", "-config", file); code != ExitOK || !strings.Contains(out, "not tried: PostgreSQL") {
		t.Errorf("status %d, %s%s", code, out, said)
	}
}

// TestUnknownAccounts: a user or a group that this machine has not is said before anything
// runs.
func TestUnknownAccounts(t *testing.T) {
	dir, bin := judgeDir(t)
	base := "member = \"n1\"\npostgres {\n data_dir = \"/d\"\n listen = \"127.0.0.1:5432\"\n bin_dir = \"" + bin + "\"\n" +
		" superuser {\n password_file = \"" + dir + "/secret\"\n }\n replication {\n password_file = \"" + dir + "/secret\"\n }\n}\napi {\n listen = \"127.0.0.1:8008\"\n}\n"
	file := filepath.Join(dir, "accounts.hcl")
	for _, c := range []struct{ text, want string }{
		{base, ""},
		{base + "hook \"h\" {\n on = \"primary\"\n command = [\"/bin/true\"]\n user = \"nosuchuser\"\n}\n", ": the command cannot run as this user: user: unknown user nosuchuser"},
		{base + "template \"t\" {\n builtin = \"haproxy.cfg\"\n destination = \"/x\"\n user = \"nosuchuser\"\n}\n", ": user: unknown user nosuchuser"},
		{base + "template \"t\" {\n builtin = \"haproxy.cfg\"\n destination = \"/x\"\n group = \"nosuchgroup\"\n}\n", ": group: unknown group nosuchgroup"},
		{base + "template \"t\" {\n builtin = \"haproxy.cfg\"\n destination = \"/x\"\n user = \"4242\"\n}\n", ""},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, said := command(t, "config", "validate", "-config", file)
		if code == ExitOK != (c.want == "") || !strings.Contains(said, c.want) {
			t.Errorf("status %d, %s\n%s", code, said, c.text)
		}
	}
}

// TestStateLost: a configuration whose data have lost the state that belongs to them is
// refused, as run refuses it, until somebody says that they are to be used all the same.
func TestStateLost(t *testing.T) {
	dir, bin := judgeDir(t)
	data, state := filepath.Join(dir, "data"), filepath.Join(dir, "data.pgsidecar")
	text := "member = \"n1\"\npostgres {\n data_dir = \"" + data + "\"\n listen = \"127.0.0.1:5432\"\n bin_dir = \"" + bin + "\"\n" +
		" superuser {\n password_file = \"" + dir + "/secret\"\n }\n replication {\n password_file = \"" + dir + "/secret\"\n }\n" +
		"}\napi {\n listen = \"127.0.0.1:8008\"\n}\n"
	for name, content := range map[string]string{
		filepath.Join(dir, "pg.hcl"): text, filepath.Join(data, "PG_VERSION"): "15\n", filepath.Join(data, "postgresql.conf"): "",
		filepath.Join(data, "postmaster.opts"): bin + `/postgres "-D" "` + data + `" "-c" "config_file=` + state + `/postgresql.conf"` + "\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	validate := func() (int, string) {
		code, out, said := command(t, "config", "validate", "-config", filepath.Join(dir, "pg.hcl"))
		return code, out + said
	}
	if code, said := validate(); code != ExitUsage || !strings.Contains(said, "Is its file system mounted?") {
		t.Errorf("status %d, %s", code, said)
	}
	if err := errors.Join(os.Mkdir(state, 0o755), os.WriteFile(filepath.Join(state, "state-lost"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if code, said := validate(); code != ExitOK {
		t.Errorf("accepted: status %d, %s", code, said)
	}
}
