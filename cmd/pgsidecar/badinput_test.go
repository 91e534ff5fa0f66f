package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// TestWrongConfiguration: what is wrong is named with its place and what was
// expected, and nothing is begun.
func TestWrongConfiguration(t *testing.T) {
	cases := []struct {
		name  string
		write func(r *rig) error
		says  []string // in one line
	}{
		{"missing", func(r *rig) error { return os.Remove(r.config()) }, []string{"pg.hcl", "no such file"}},
		{"unreadable", func(r *rig) error {
			if err := os.Remove(r.config()); err != nil {
				return err
			}
			return os.Mkdir(r.config(), 0o755) // root may read every file, but no directory as one
		}, []string{"pg.hcl", "is a directory"}},
		{"syntax", func(r *rig) error { return r.replace(`cluster = "pg"`, `cluster = "pg`) }, []string{"pg.hcl:2"}},
		{"key", func(r *rig) error { return r.replace("data_dir ", "datadir  ") }, []string{"pg.hcl:", "datadir", "data_dir"}},
		{"block", func(r *rig) error { return r.replace("api {", "durabilty {\n}\napi {") }, []string{"pg.hcl:", "durabilty", "durability"}},
		{"type", func(r *rig) error { return r.replace("api {", "failover {\n  lease = \"soon\"\n}\napi {") }, []string{"pg.hcl:", "soon", "duration"}},
		{"combination", func(r *rig) error {
			return r.replace("api {", "failover {\n  lease = \"3s\"\n  failure_timeout = \"2s\"\n}\napi {")
		}, []string{"pg.hcl:", "lease"}},
		{"a PostgreSQL that is not known yet", func(r *rig) error { return r.runs("19beta1") }, []string{"pg.hcl", "PostgreSQL 19", "the newest that this version of pgsidecar knows is 18", "bin_dir"}},
		{"password file", func(r *rig) error { return os.Remove(filepath.Join(r.dir, "superuser")) }, []string{"superuser", "no such file"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			if err := c.write(r); err != nil {
				t.Fatal(err)
			}
			r.start()
			if code := r.exits(long); code != cli.ExitUsage {
				t.Errorf("exit status %d", code)
			}
			r.logged(time.Second, c.says...)
			t.Log(r.log.String())
			if _, err := os.Stat(filepath.Dir(r.data())); !os.IsNotExist(err) {
				t.Errorf("something was made: %v", err)
			}
		})
	}
}

func (r *rig) config() string { return filepath.Join(r.dir, "pg.hcl") }

// replace changes the configuration file.
func (r *rig) replace(old, with string) error {
	text, err := os.ReadFile(r.config())
	if err != nil {
		return err
	}
	if !bytes.Contains(text, []byte(old)) {
		return fmt.Errorf("the configuration has no %q", old)
	}
	return os.WriteFile(r.config(), bytes.Replace(text, []byte(old), []byte(with), 1), 0o644)
}

// runs has the member run programs that say they are of a version.
func (r *rig) runs(version string) error {
	bin := labtest.Installed(r.t, programs.PostgresBin)
	dir := linkedPrograms(r.t, bin)
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" != --version ] || { echo 'postgres (PostgreSQL) %s'; exit; }\nexec %s/postgres \"$@\"\n", version, bin)
	program := filepath.Join(dir, "postgres")
	if err := errors.Join(os.Remove(program), os.WriteFile(program, []byte(script), 0o755)); err != nil {
		return err
	}
	return r.replace(fmt.Sprintf("%q", bin), fmt.Sprintf("%q", dir))
}

// TestMemberOfAnotherMajor: a new member whose programs are of another major version says
// so, with the way out, makes nothing, and joins once it has the right ones. The primary
// goes on.
func TestMemberOfAnotherMajor(t *testing.T) {
	n1 := newRig(t)
	n1.startConsul()
	n1.start()
	n1.logged(long, "announced", "tag=primary")
	for _, version := range []string{"14.20", "18.6"} {
		n2 := n1.beside("n2")
		if err := n2.runs(version); err != nil {
			t.Fatal(err)
		}
		n2.start()
		major, _, _ := strings.Cut(version, ".")
		if major == majorOf(t) {
			n2.logged(long, "announced", "tag=replica")
			n2.stop()
			continue
		}
		n2.logged(long, "n1 runs PostgreSQL "+majorOf(t), "of version "+major, "bin_dir", "pgsidecar help upgrade")
		if _, err := os.Stat(n2.data()); !os.IsNotExist(err) {
			t.Errorf("something was made: %v", err)
		}
		_, said, _ := command(t, "status", "-consul", fmt.Sprint("127.0.0.1:", n1.consul))
		t.Log(said)
		n2.stop()
		n2.configure("")
		n2.start()
		n2.logged(long, "announced", "tag=replica")
		n2.stop()
	}
	n1.stop()
}

// majorOf is the major version of the programs that tests run.
func majorOf(t *testing.T) string {
	t.Helper()
	return filepath.Base(filepath.Dir(labtest.Installed(t, programs.PostgresBin)))
}

// denying is a Consul agent's configuration for ACLs that deny by default, with this
// token to manage them; MANAGEMENT is what the agent's version calls it.
const (
	managing = "11111111-2222-3333-4444-555555555555"
	denying  = `acl { enabled = true default_policy = "deny" tokens { MANAGEMENT = "` + managing + `" agent = "` + managing + `" } }`
)

// TestWrongToken: a token that Consul does not know is named as the cause, with
// what a right one must allow; it is not printed.
func TestWrongToken(t *testing.T) {
	const wrong = "99999999-2222-3333-4444-555555555555"
	r := newRig(t)
	r.startConsul(denying)
	t.Setenv("CONSUL_HTTP_TOKEN", wrong)
	r.start()
	r.logged(long, "does not know this token", "key_prefix")
	r.logged(long, "nothing is decided")
	if strings.Contains(r.log.String(), wrong) {
		t.Error("the token was printed")
	}
}

// TestTokenLacksRule: the rule that a token's policy lacks is named; once the
// policy has it, the member goes on by itself.
func TestTokenLacksRule(t *testing.T) {
	r := newRig(t)
	r.startConsul(denying)
	enough := `session_prefix "" { policy = "write" } service "pg" { policy = "write" } node_prefix "" { policy = "read" }`
	r.acl(http.MethodPut, "policy", map[string]any{"Name": "member", "Rules": enough})
	token := r.acl(http.MethodPut, "token", map[string]any{"Policies": []map[string]string{{"Name": "member"}}})["SecretID"].(string)
	t.Setenv("CONSUL_HTTP_TOKEN", token)
	r.start()
	r.logged(long, "its policy lacks the rule", `key_prefix \"pgsidecar/pg/\"`)
	policy := r.acl(http.MethodGet, "policy/name/member", nil)
	r.acl(http.MethodPut, "policy/"+policy["ID"].(string), map[string]any{"Name": "member",
		"Rules": enough + ` key_prefix "pgsidecar/pg/" { policy = "write" }`})
	r.logged(long, "announced", "tag=primary")
	r.stop()
	if strings.Contains(r.log.String(), token) {
		t.Error("the token was printed")
	}
}

// acl asks Consul's ACL system, as soon as it is ready, and returns the answer.
func (r *rig) acl(method, path string, body any) map[string]any {
	r.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		r.t.Fatal(err)
	}
	late := time.After(long)
	for again := time.NewTicker(100 * time.Millisecond); ; {
		req, err := http.NewRequestWithContext(r.t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d/v1/acl/%s", r.consul, path), bytes.NewReader(text))
		if err != nil {
			r.t.Fatal(err)
		}
		req.Header.Set("X-Consul-Token", managing)
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			answer := map[string]any{}
			decoded := json.NewDecoder(resp.Body).Decode(&answer)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK && decoded == nil {
				again.Stop()
				return answer
			}
			err = fmt.Errorf("%s", resp.Status)
		}
		select {
		case <-again.C:
		case <-late:
			r.t.Fatalf("%s %s: %v", method, path, err)
		}
	}
}

// setPassword replaces what a password file says.
func (r *rig) setPassword(account, password string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, account), []byte(password+"\n"), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// TestSuperuserPassword: the password is for people; the sidecar goes in by the name of its
// system user. So a file that says something else while the sidecar is away keeps nobody
// from starting, and one that changes while it runs is taken up without a word from
// anybody; sessions that are open stay, and no password is printed. A role that was given a
// last day gets its rights back.
func TestSuperuserPassword(t *testing.T) {
	r := newRig(t)
	r.startConsul()
	r.start()
	r.logged(long, "announced", "tag=primary")
	r.stop()
	r.setPassword("superuser", "not the one")
	r.start()
	r.logged(long, "announced", "tag=primary")
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	as := func(password string) (*pgx.Conn, error) {
		return pgx.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d user=postgres password='%s' dbname=postgres", r.pg, password))
	}
	r.logged(long, "role made or changed", "role=postgres")
	stays, err := as("not the one")
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close(context.WithoutCancel(ctx))
	log := r.log.String()
	again := func(words, what string) {
		t.Helper()
		for strings.Count(r.log.String(), words) == strings.Count(log, words) {
			select {
			case <-r.log.grown:
			case <-ctx.Done():
				t.Fatal(what)
			}
		}
	}
	r.setPassword("superuser", "the fourth")
	again("role=postgres", "the changed password was not taken up")
	if _, err := as("not the one"); err == nil {
		t.Error("the password before lets somebody in")
	}
	if err := stays.Ping(ctx); err != nil {
		t.Errorf("a session that was open was cut: %v", err)
	}
	fourth, err := as("the fourth")
	if err != nil {
		t.Fatal(err)
	}
	defer fourth.Close(context.WithoutCancel(ctx))
	// What is taken from the role that replicates would keep replicas from the next primary.
	var replicates string
	if err := fourth.QueryRow(ctx, "select rolname from pg_roles where rolreplication and not rolsuper").Scan(&replicates); err != nil {
		t.Fatal(err)
	}
	log = r.log.String()
	if _, err := fourth.Exec(ctx, "alter role "+pgx.Identifier{replicates}.Sanitize()+" valid until '2020-01-01'"); err != nil {
		t.Fatal(err)
	}
	again("role="+replicates, "the role that replicates keeps its last day")
	if strings.Contains(r.log.String(), "not the one") || strings.Contains(r.log.String(), "the fourth") {
		t.Error("the password was printed")
	}
}

// TestWrongReplicationPassword: a new member that the primary refuses says so,
// makes nothing, and clones once its file is right. Where the members' common
// secret is made of that password, as it is unless configured, the other members
// refuse it first.
func TestWrongReplicationPassword(t *testing.T) {
	cases := []struct {
		name  string
		peers string
		says  []string // in one line
	}{
		{"own key", "peers {\n  key_file = %q\n}", []string{"clone failed", "password refused"}},
		{"key of it", "", []string{"peer refused", "the replication password", "differs between the two members"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n1 := newRig(t)
			n1.startConsul()
			n2 := n1.beside("n2")
			if c.peers != "" {
				key := filepath.Join(n1.dir, "key")
				if err := os.WriteFile(key, []byte("the secret of both"), 0o644); err != nil {
					t.Fatal(err)
				}
				n1.configure(fmt.Sprintf(c.peers, key))
				n2.configure(fmt.Sprintf(c.peers, key))
			}
			n1.start()
			n1.logged(long, "announced", "tag=primary")
			n2.setPassword("replication", "not the one")
			n2.start()
			n2.logged(long, c.says...)
			t.Log(n2.log.String())
			if _, err := os.Stat(filepath.Join(n2.data(), "PG_VERSION")); !os.IsNotExist(err) {
				t.Errorf("there is a server: %v", err)
			}
			n2.setPassword("replication", "secret of replication")
			n2.logged(long, "announced", "tag=replica")
			n2.stop()
			n1.stop()
			if strings.Contains(n2.log.String(), "not the one") {
				t.Error("the password was printed")
			}
		})
	}
}

// TestCloneToFullDisk: a new member whose disk is too small says so, leaves
// nothing half made that could serve, and clones once there is room. The primary
// goes on.
func TestCloneToFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	n1 := newRig(t)
	n1.startConsul()
	n1.start()
	n1.logged(long, "announced", "tag=primary")
	n2 := n1.beside("n2")
	disk := filepath.Dir(n2.data())
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	n2.start()
	n2.logged(long, "clone failed", "no space left on device")
	n2.logged(long, "ending what was left unfinished") // at once: its room may be needed
	t.Log(n2.log.String())
	if strings.Contains(n2.log.String(), "tag=replica") {
		t.Error("a half-made clone was announced")
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=400m"); err != nil {
		t.Fatal(err)
	}
	n2.logged(long, "announced", "tag=replica")
	n2.stop()
	n1.stop()
}

// TestUnreachableDatacenter: a cluster that is to follow one in a datacenter that Consul
// does not reach says so, and makes nothing.
func TestUnreachableDatacenter(t *testing.T) {
	r := newRig(t)
	r.startConsul()
	r.configure("standby_of {\n  service    = \"pg\"\n  datacenter = \"dc9\"\n}")
	r.start()
	r.logged(long, "waiting", "the primary of pg@dc9", "datacenter dc9")
	t.Log(r.log.String())
	if _, err := os.Stat(filepath.Join(r.data(), "PG_VERSION")); !os.IsNotExist(err) {
		t.Errorf("there is a server: %v", err)
	}
	r.stop()
}

// TestBadSites: a cluster that is to follow itself, a cluster that refuses its password, or
// one that follows it in turn, says so, and makes nothing; with the right password it follows.
func TestBadSites(t *testing.T) {
	west := newRig(t)
	west.startConsul()
	west.start()
	west.logged(long, "announced", "tag=primary")
	follower := func(cluster, standbyOf string) *rig {
		r := west.beside("n1")
		r.configure("standby_of {\n" + standbyOf + "\n}")
		if err := r.replace(`cluster = "pg"`, fmt.Sprintf("cluster = %q", cluster)); err != nil {
			t.Fatal(err)
		}
		return r
	}
	nothing := func(t *testing.T, r *rig) {
		t.Helper()
		if _, err := os.Stat(filepath.Join(r.data(), "PG_VERSION")); !os.IsNotExist(err) {
			t.Errorf("%s has a server: %v", r.dir, err)
		}
	}
	t.Run("itself", func(t *testing.T) {
		r := follower("self", `service = "self"`)
		r.start()
		if code := r.exits(long); code == 0 || !strings.Contains(r.log.String(), "standby_of names this cluster itself: its service is self too") {
			t.Errorf("exit status %d: %s", code, r.log.String())
		}
		nothing(t, r)
	})
	t.Run("a circle", func(t *testing.T) {
		one, two := follower("one", `service = "two"`), follower("two", `service = "one"`)
		one.start()
		two.start()
		one.logged(long, "waiting", "no standby cluster is founded", "the primary of two@local")
		two.logged(long, "waiting", "no standby cluster is founded", "the primary of one@local")
		t.Log(one.log.String())
		for _, r := range []*rig{one, two} {
			nothing(t, r)
			r.stop()
		}
	})
	t.Run("a wrong password", func(t *testing.T) {
		r := follower("east", `service = "pg"`)
		r.setPassword("replication", "not the one")
		r.start()
		r.logged(long, "waiting", "no standby cluster is founded", "the primary of pg@local", "password")
		t.Log(r.log.String())
		nothing(t, r)
		r.setPassword("replication", "secret of replication")
		r.logged(long, "announced", "tag=standby-leader")
		r.stop()
		if strings.Contains(r.log.String(), "not the one") {
			t.Error("the password was printed")
		}
	})
	west.stop()
}
