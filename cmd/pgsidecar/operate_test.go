package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// operated is a lab, and what an operator has of it.
type operated struct {
	*lab.Lab
	t     *testing.T
	token string
	apis  string // addresses, with commas
}

// TestOperate does in one cluster what operators and their tools do: Patroni's
// clients unchanged, plans, pauses, tags, slots, clones, five hundred changes at
// once, a rolling restart under load; and then looks for secrets where none may be.
func TestOperate(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	o := newOperated(t)
	t.Run("haproxy with patroni's configuration", o.haproxy)
	t.Run("facts that check_patroni reads", o.checkPatroni)
	t.Run("unauthenticated", o.unauthenticated)
	t.Run("planned", o.planned)
	t.Run("pauses", o.pauses)
	t.Run("a pause ends by itself", o.pauseEnds)
	t.Run("tags in the settings", o.tags)
	t.Run("a wrong line of hba", o.wrongHBA)
	t.Run("slots", o.slots)
	t.Run("clone from a member", o.reinit)
	t.Run("fewer connections", o.fewerConnections)
	t.Run("consul is away", o.consulAway)
	t.Run("parallel changes", o.parallel)
	t.Run("rolling restart", o.rolling)
	t.Run("the record is lost", o.recordLost)
	t.Run("no secret anywhere", o.secrets)
}

func newOperated(t *testing.T) *operated {
	o := newOperatedLab(t, lab.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := o.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return o
}

// newOperatedLab starts a lab, which need not become ready.
func newOperatedLab(t *testing.T, options lab.Options) *operated {
	binary, err := builtOnce()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "operate")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	labtest.NeedPrograms(t)
	options.Dir, options.Binary = filepath.Join(dir, "lab"), binary
	l, err := lab.New(options)
	if errors.Is(err, programs.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := l.Up(ctx, func(string) {}); err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(l.Plan().APITokenFile())
	if err != nil {
		t.Fatal(err)
	}
	o := &operated{Lab: l, t: t, token: strings.TrimSpace(string(token))}
	for _, h := range l.Plan().Members() {
		o.apis = strings.TrimPrefix(o.apis+","+h.APIAddress(), ",")
	}
	o.here(t)
	return o
}

// here has the commands that follow speak with this lab.
func (o *operated) here(t *testing.T) {
	t.Setenv("PGSIDECAR_API", o.apis)
	t.Setenv("PGSIDECAR_TOKEN", o.token)
}

// ask does one request of a member's API.
func (o *operated) ask(method, address, path, token, body string) (int, string) {
	o.t.Helper()
	r, err := http.NewRequestWithContext(o.t.Context(), method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// status is what `pgsidecar status --json` says.
func (o *operated) status() *api.Status {
	o.t.Helper()
	code, stdout, stderr := command(o.t, "status", "--json")
	var st api.Status
	if err := json.Unmarshal([]byte(stdout), &st); code != cli.ExitOK || err != nil {
		o.t.Fatalf("exit status %d, %v, %s", code, err, stderr)
	}
	return &st
}

// until waits for what has no event.
func (o *operated) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	labtest.Until(t, time.Minute, what, done)
}

// unauthenticated changes are refused with 401, and logged.
func (o *operated) unauthenticated(t *testing.T) {
	h := o.Plan().Members()[0]
	for _, change := range [][2]string{{"POST", "/switchover"}, {"POST", "/failover"}, {"POST", "/restart"}, {"DELETE", "/restart"}, {"POST", "/reinitialize"},
		{"POST", "/reload"}, {"POST", "/pause"}, {"POST", "/resume"}, {"POST", "/remove"}, {"PATCH", "/config"}, {"PUT", "/config"}} {
		for _, token := range []string{"", "wrong-" + o.token} {
			if code, _ := o.ask(change[0], h.APIAddress(), change[1], token, `{}`); code != 401 {
				t.Errorf("%s %s: %d", change[0], change[1], code)
			}
		}
	}
	o.until(t, "refusal in the log", func() bool {
		log, err := os.ReadFile(filepath.Join(h.Dir, "sidecar.log"))
		return err == nil && bytes.Count(log, []byte("change refused")) >= 22 && bytes.Contains(log, []byte("status=401"))
	})
}

// wrongHBA: a line that PostgreSQL does not take is not stored, and its words say why.
func (o *operated) wrongHBA(t *testing.T) {
	h := o.Plan().Members()[0]
	code, said := o.ask("PATCH", h.APIAddress(), "/config", o.token, `{"hba":["host all all 10.0.0.0/8 ldap"]}`)
	if code != http.StatusBadRequest || !strings.Contains(said, "ldap") {
		t.Errorf("%d %s", code, said)
	}
	if _, now := o.ask("GET", h.APIAddress(), "/config", "", ""); strings.Contains(now, "ldap") {
		t.Errorf("it was stored: %s", now)
	}
}

// parallel: 500 changes at once leave the cluster as well as it was.
func (o *operated) parallel(t *testing.T) {
	before := o.status()
	members := o.Plan().Members()
	var group sync.WaitGroup
	codes := make([]int, 500)
	for i := range codes {
		group.Go(func() {
			h := members[i%len(members)]
			switch i % 5 {
			case 0:
				codes[i], _ = o.ask("PATCH", h.APIAddress(), "/config", o.token, fmt.Sprintf(`{"parameters":{"work_mem":"%dMB"}}`, 4+i%7))
			case 1:
				codes[i], _ = o.ask("POST", h.APIAddress(), "/reload", o.token, "")
			case 2:
				codes[i], _ = o.ask("POST", h.APIAddress(), "/pause", o.token, `{"for":"10m"}`)
			case 3:
				codes[i], _ = o.ask("POST", h.APIAddress(), "/resume", o.token, "")
			default:
				codes[i], _ = o.ask("DELETE", h.APIAddress(), "/switchover", o.token, "")
			}
		})
	}
	group.Wait()
	counts := map[int]int{}
	for _, code := range codes {
		counts[code]++
	}
	t.Logf("answers by status: %v", counts)
	for code := range counts {
		if !slices.Contains([]int{200, 202, 404, 409, 503}, code) {
			t.Errorf("%d answers with status %d", counts[code], code)
		}
	}
	o.until(t, "end of the pause", func() bool {
		code, _ := o.ask("POST", members[0].APIAddress(), "/resume", o.token, "")
		return code == 200
	})
	o.until(t, "cluster as before", func() bool {
		st := o.status()
		return !st.Paused && st.Primary && st.Term == before.Term && st.Leader == before.Leader &&
			!slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool { return m.Member != st.Leader && !m.Streaming })
	})
}

// rolling: `restart --all` under load restarts each server, with one switchover,
// and loses no write that was acknowledged.
func (o *operated) rolling(t *testing.T) {
	started := o.startTimes(t)
	before := o.status().Term
	ctx, stop := context.WithCancel(t.Context())
	wrote := make(chan []int)
	go func() { wrote <- o.write(ctx) }()
	code, stdout, stderr := command(t, "restart", "--all")
	stop()
	acknowledged := <-wrote
	if code != cli.ExitOK {
		t.Fatalf("exit status %d\n%s%s", code, stdout, stderr)
	}
	st := o.status()
	if st.Term != before+1 {
		t.Errorf("term %d became %d", before, st.Term)
	}
	for member, at := range o.startTimes(t) {
		if at == started[member] {
			t.Errorf("%s was not restarted", member)
		}
	}
	o.kept(t, st.Leader, acknowledged)
}

// kept looks that the leader has what was acknowledged to write.
func (o *operated) kept(t *testing.T, leader string, acknowledged []int) {
	t.Helper()
	config, err := o.ConnConfig("postgres", leader)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	rows, err := conn.Query(t.Context(), "select n from rolled")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(kept)
	lost := 0
	for _, n := range acknowledged {
		if _, is := slices.BinarySearch(kept, n); !is {
			lost++
		}
	}
	t.Logf("%d writes acknowledged, %d lost", len(acknowledged), lost)
	if lost > 0 || len(acknowledged) == 0 {
		t.Errorf("%d of %d acknowledged writes are lost", lost, len(acknowledged))
	}
}

// write inserts numbers through whichever member takes them until ctx ends, and
// returns those that were acknowledged.
func (o *operated) write(ctx context.Context) []int {
	var done []int
	for n := 1; ctx.Err() == nil; {
		for _, h := range o.Plan().Members() {
			config, err := o.ConnConfig("postgres", h.Name)
			if err != nil {
				continue
			}
			work, cancel := context.WithTimeout(ctx, 5*time.Second)
			if conn, err := pgx.ConnectConfig(work, config); err == nil {
				_, err = conn.Exec(work, "create table if not exists rolled (n int)")
				for err == nil && ctx.Err() == nil {
					one, end := context.WithTimeout(ctx, 2*time.Second)
					if _, err = conn.Exec(one, "insert into rolled values ($1)", n); err == nil {
						done = append(done, n)
					}
					n++
					end()
				}
				conn.Close(context.WithoutCancel(ctx))
			}
			cancel()
		}
	}
	return done
}

func (o *operated) startTimes(t *testing.T) map[string]string {
	at := map[string]string{}
	for _, h := range o.Plan().Members() {
		var own struct {
			Start string `json:"postmaster_start_time"`
		}
		o.until(t, "start time of "+h.Name, func() bool {
			_, body := o.ask("GET", h.APIAddress(), "/patroni", "", "")
			return json.Unmarshal([]byte(body), &own) == nil && own.Start != ""
		})
		at[h.Name] = own.Start
	}
	return at
}

// secrets: none is in a log, in a process's arguments or environment, in Consul,
// or in an answer.
func (o *operated) secrets(t *testing.T) {
	folder := filepath.Join(o.Plan().Dir, "secrets")
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) < 3 {
		t.Fatalf("%d secrets, %v", len(entries), err)
	}
	places := o.places(t)
	for _, e := range entries {
		secret, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for place, text := range places {
			if bytes.Contains(text, bytes.TrimSpace(secret)) {
				t.Errorf("the secret %s is in %s", e.Name(), place)
			}
		}
	}
	t.Logf("%d secrets, looked for in %d places", len(entries), len(places))
}

// places are where a secret could come to light.
func (o *operated) places(t *testing.T) map[string][]byte {
	places := map[string][]byte{}
	read := func(path string) {
		if b, err := os.ReadFile(path); err == nil { // a process may have ended
			places[path] = b
		}
	}
	for _, pattern := range []string{"*/*.log", "*/postgres/data.pgsidecar/*.log", "*/postgres/data/log/*", "*/postgres/data.pgsidecar/*.conf", "*/postgres/data/*.conf"} {
		files, err := filepath.Glob(filepath.Join(o.Plan().Dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			read(f)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		read(p)
		if pid := filepath.Base(filepath.Dir(p)); pid != strconv.Itoa(os.Getpid()) { // this test has the token in its own
			read("/proc/" + pid + "/environ")
		}
	}
	consul, err := o.ConsulClient(o.Plan().Servers()[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	pairs, _, err := consul.KV().List("", nil)
	if err != nil || len(pairs) == 0 {
		t.Fatalf("%d keys, %v", len(pairs), err)
	}
	for _, p := range pairs {
		places["consul "+p.Key] = p.Value
	}
	services, _, err := consul.Catalog().Service(o.Plan().Cluster, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(services)
	if err != nil {
		t.Fatal(err)
	}
	places["consul's catalog"] = b
	for _, h := range o.Plan().Members() {
		for _, path := range []string{"/status", "/patroni", "/cluster", "/config", "/changes", "/history", "/metrics", "/primary"} {
			_, body := o.ask("GET", h.APIAddress(), path, "", "")
			places[h.Name+path] = []byte(body)
		}
	}
	return places
}
