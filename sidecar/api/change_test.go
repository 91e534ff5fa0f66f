package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// control records what was asked for, and answers as told.
type control struct {
	mu    sync.Mutex
	asked []string
	begin func(ctx context.Context) // called at each change
	err   error
	to    string
}

var _ api.Control = (*control)(nil)

func (c *control) note(ctx context.Context, format string, args ...any) error {
	c.mu.Lock()
	c.asked = append(c.asked, fmt.Sprintf(format, args...))
	begin, err := c.begin, c.err
	c.mu.Unlock()
	if begin != nil {
		begin(ctx)
	}
	return err
}

func (c *control) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.asked) == 0 {
		return ""
	}
	return c.asked[len(c.asked)-1]
}

func (c *control) Switchover(ctx context.Context, r api.Switchover) (string, error) {
	at := ""
	if !r.At.IsZero() {
		at = " at " + r.At.UTC().Format(time.RFC3339)
	}
	if r.Drain > 0 {
		at += " drain " + r.Drain.String()
	}
	return c.to, c.note(ctx, "switchover %s to %q%s", r.Leader, r.Candidate, at)
}
func (c *control) Failover(ctx context.Context, r api.Failover) (string, error) {
	return c.to, c.note(ctx, "failover %q %t", r.Candidate, r.AcceptDataLoss)
}
func (c *control) CancelSwitchover(ctx context.Context) error {
	return c.note(ctx, "cancel switchover")
}
func (c *control) CancelRestart(ctx context.Context) error { return c.note(ctx, "cancel restart") }
func (c *control) Reload(ctx context.Context) error        { return c.note(ctx, "reload") }
func (c *control) Restart(ctx context.Context, r api.Restart) error {
	return c.note(ctx, "restart %s %s %t %s %t", r.Role, r.PostgresVersion, r.Pending, r.Timeout, r.At.IsZero())
}
func (c *control) Reinitialize(ctx context.Context, r api.Reinitialize) error {
	return c.note(ctx, "reinitialize %+v", r)
}
func (c *control) Pause(ctx context.Context, r api.Pause) error { return c.note(ctx, "pause %+v", r) }
func (c *control) Remove(ctx context.Context, member string) error {
	return c.note(ctx, "remove %s", member)
}
func (c *control) Resume(ctx context.Context, r api.Resume) error {
	return c.note(ctx, "resume %+v", r)
}
func (c *control) PatchConfig(ctx context.Context, r api.ConfigChange) (json.RawMessage, error) {
	if r.Version != 0 {
		return r.Patch, c.note(ctx, "config %s of version %d by %s", r.Patch, r.Version, api.RequestedBy(ctx))
	}
	return r.Patch, c.note(ctx, "config %s %t", r.Patch, r.Replace)
}

func (c *control) TryConfig(ctx context.Context, raw json.RawMessage) error {
	return c.note(ctx, "try %s", raw)
}

func (c *control) SwitchSite(ctx context.Context, drain time.Duration) (string, error) {
	return "done", c.note(ctx, "switch site %s", drain)
}

func (c *control) PromoteSite(ctx context.Context, r api.PromoteSite) (string, error) {
	return "done", c.note(ctx, "promote site %v %t %t", r.Final, r.AcceptDataLoss, r.Check)
}

const bearer = "Bearer letmein"

func (b *bench) send(method, target, auth, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if auth != "" {
		r.Header.Set("Authorization", auth)
	}
	b.Handler().ServeHTTP(w, r)
	return w
}

func TestChanges(t *testing.T) {
	future := "2100-01-01T00:00:00+00:00"
	tests := []struct {
		method, path, body string
		status             int
		asked, text        string // asked empty: nothing
	}{
		{"POST", "/switchover", `{"leader":"n1"}`, 200, `switchover n1 to ""`, `Successfully switched over to "n2"`},
		{"POST", "/switchover", `{"leader":"n1","candidate":"n2"}`, 200, `switchover n1 to "n2"`, `Successfully switched over to "n2"`},
		{"POST", "/switchover", `{"leader":"n1","member":"n3"}`, 200, `switchover n1 to "n3"`, `Switched over to "n2" instead of "n3"`},
		{"POST", "/switchover", `{"leader":"n1","candidate":"n2","scheduled_at":"` + future + `"}`, 202, `switchover n1 to "n2" at 2100-01-01T00:00:00Z`, "Switchover scheduled"},
		{"POST", "/switchover", `{"leader":"n1","scheduled_at":"2100-01-01T00:00:00"}`, 400, "", "Timezone information is mandatory for the scheduled switchover"},
		{"POST", "/switchover", `{"leader":"n1","scheduled_at":"2000-01-01T00:00:00Z"}`, 422, "", "Cannot schedule switchover in the past"},
		{"POST", "/switchover", `{"leader":"n1","scheduled_at":"soon"}`, 422, "", "Unable to parse scheduled timestamp"},
		{"POST", "/switchover", `{"candidate":"n2"}`, 400, "", "Switchover could be performed only from a specific leader"},
		{"POST", "/switchover", `{"leader":"n1","candidate":"n1"}`, 400, "", "Switchover target and source are the same"},
		{"POST", "/switchover", `{"leader":"n2","candidate":"n3"}`, 412, "", "leader name does not match"},
		{"POST", "/switchover", `{"leader":"n1","candidate":"n9"}`, 412, "", "candidate does not exists"},
		{"POST", "/switchover", `{"leader":"n1","accept_data_loss":true}`, 400, "", "A switchover never loses data"},
		{"POST", "/switchover", ``, 400, "", "a body is expected"},
		{"POST", "/failover", ``, 400, "", "a body is expected"},
		{"POST", "/failover", `{"foo":"bar"}`, 400, "", "Failover could be performed only to a specific candidate"},
		{"POST", "/failover", `{"candidate":"n2","foo":"bar"}`, 400, "", `unknown field "foo"`},
		{"POST", "/switchover", `[]`, 400, "", "not a JSON object"},
		{"POST", "/switchover", `{"leader":`, 400, "", "not a JSON object"},
		{"POST", "/switchover", `{"leader":"n1"}{"leader":"n1"}`, 400, "", "not a JSON object"},
		{"POST", "/switchover", `{"leader":7}`, 400, "", "cannot be read"},
		{"POST", "/switchover", `{"leader":"n1","canddate":"n2"}`, 400, "", `unknown field "canddate"`},
		{"DELETE", "/switchover", ``, 200, "cancel switchover", "scheduled switchover deleted"},
		{"POST", "/failover", `{"candidate":"n2"}`, 200, `failover "n2" false`, `Successfully failed over to "n2"`},
		{"POST", "/failover", `{"candidate":"n2","accept_data_loss":true}`, 200, `failover "n2" true`, `Successfully failed over`},
		{"POST", "/failover", `{"leader":"n1","candidate":"n2"}`, 200, `switchover n1 to "n2"`, `Successfully switched over`},
		{"POST", "/failover", `{}`, 400, "", "Failover could be performed only to a specific candidate"},
		{"POST", "/failover", `{"candidate":"n2","scheduled_at":"` + future + `"}`, 400, "", "Failover can't be scheduled"},
		{"POST", "/failover", `{"candidate":"n9"}`, 412, "", "candidate does not exists"},
		{"POST", "/restart", ``, 200, "restart   false 0s true", "restarted successfully"},
		{"POST", "/restart", `{"role":"primary","postgres_version":"15.2","restart_pending":true,"timeout":30}`, 200, "restart primary 15.2 true 30s true", ""},
		{"POST", "/restart", `{"timeout":"5min"}`, 200, "restart   false 5m0s true", ""},
		{"POST", "/restart", `{"schedule":"` + future + `"}`, 202, "restart   false 0s false", "Restart scheduled"},
		{"POST", "/restart", `{"timeout":-1}`, 400, "", "Timeout should be"},
		{"POST", "/restart", `{"timeout":{}}`, 400, "", "Timeout should be"},
		{"POST", "/restart", `{"role":"king"}`, 400, "", "PostgreSQL role should be"},
		{"POST", "/restart", `{"postgres_version":"new"}`, 400, "", "Invalid PostgreSQL version"},
		{"POST", "/restart", `{"colour":"blue"}`, 400, "", "Unknown filter for the scheduled restart: colour"},
		{"POST", "/restart", `{"restart_pending":"True"}`, 200, "restart   true 0s true", ""},
		{"POST", "/restart", `{"restart_pending":"maybe"}`, 400, "", "restart_pending: true or false is expected"},
		{"POST", "/restart", `{"restart_pending":{}}`, 400, "", "restart_pending: true or false is expected"},
		{"POST", "/restart", `{"role":"standby_leader"}`, 200, "restart standby_leader  false 0s true", ""},
		{"POST", "/restart", `{"postgres_version":"15"}`, 400, "", "Invalid PostgreSQL version"},
		{"POST", "/restart", `{"postgres_version":15.2}`, 400, "", "Invalid PostgreSQL version"},
		{"POST", "/restart", `{"postgres_version":"9.6.1"}`, 200, "restart  9.6.1 false 0s true", ""},
		{"POST", "/restart", `{"schedule":"` + future + `","role":"replica"}`, 202, "restart replica  false 0s false", "Restart scheduled"},
		{"DELETE", "/restart", ``, 200, "cancel restart", "scheduled restart deleted"},
		{"POST", "/reinitialize", `{"force":true}`, 503, "", "I am the leader, can not reinitialize"},
		{"POST", "/reload", ``, 202, "reload", "reload scheduled"},
		{"POST", "/pause", `{"for":"30m","members":["n2"],"reason":"disk"}`, 200, "pause {For:30m0s Members:[n2] Reason:disk}", "paused"},
		{"POST", "/pause", ``, 200, "pause {For:0s Members:[] Reason:}", "paused"},
		{"POST", "/pause", `{"for":"a while"}`, 400, "", "for: a time"},
		{"POST", "/resume", ``, 200, "resume {Members:[]}", "resumed"},
		{"POST", "/remove", `{"member":"n3"}`, 200, "remove n3", "n3 is removed"},
		{"POST", "/remove", `{}`, 400, "", "say which member is to be removed"},
		{"PATCH", "/config", `{"ttl":null}`, 200, `config {"ttl":null} false`, `{"ttl":null}`},
		{"PUT", "/config", `{"ttl":20}`, 200, `config {"ttl":20} true`, `{"ttl":20}`},
		{"POST", "/switchover", `{"leader":"n1","candidate":"n2","drain":"5s"}`, 200, `switchover n1 to "n2" drain 5s`, "Successfully switched over"},
		{"POST", "/switchover", `{"leader":"n1","candidate":"n2","drain":"5 apples"}`, 400, "", "expected a duration up to 30s"},
		{"POST", "/switchover", `{"leader":"n1","candidate":"n2","drain":"10m"}`, 400, "", "expected a duration up to 30s"},
		{"POST", "/switchover", `{"leader":"n1","candidate":"n2","until":"2031-01-01T00:00:00Z"}`, 400, "", "until is for a planned switchover"},
		{"POST", "/switchover", `{"leader":"n1","scheduled_at":"2031-01-02T00:00:00Z","until":"2031-01-01T00:00:00Z"}`, 400, "", "is not after scheduled_at"},
		{"POST", "/config/try", `{"hba":[]}`, 200, `try {"hba":[]}`, "taken"},
		{"PATCH", "/config", ``, 400, "", "a body is expected"},
		{"PATCH", "/config", `{}`, 400, "", "nothing is to be changed"},
	}
	for _, test := range tests {
		t.Run(test.method+test.path+" "+test.body, func(t *testing.T) {
			c := &control{to: "n2"}
			b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control = c })
			w := b.send(test.method, test.path, bearer, test.body)
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.text) {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, test.status, test.text)
			}
			if c.last() != test.asked {
				t.Errorf("asked %q, want %q", c.last(), test.asked)
			}
		})
	}
}

func TestChangesInPause(t *testing.T) {
	v := viewOf("n1")
	v.Observation.Policy.Paused = true
	b := newBench(t, v, func(o *api.Options) { o.Control = &control{to: "n2"} })
	for body, want := range map[string]int{
		`{"leader":"n1"}`:                  400,
		`{"leader":"n1","candidate":"n2"}`: 200,
		`{"leader":"n1","candidate":"n2","scheduled_at":"2100-01-01T00:00:00Z"}`: 400,
	} {
		if w := b.send("POST", "/switchover", bearer, body); w.Code != want {
			t.Errorf("%s: %d, want %d", body, w.Code, want)
		}
	}
	if w := b.send("POST", "/restart", bearer, `{"schedule":"2100-01-01T00:00:00Z"}`); w.Code != 500 {
		t.Errorf("restart: %d", w.Code)
	}
}

// TestResumeSays: what the pause has kept from happening is told, of the members named.
func TestResumeSays(t *testing.T) {
	v := viewOf("n1")
	v.Report.Blocked, v.Report.Override, v.Report.Cost = "this member's server is not managed: the end of process 123", "pgsidecar resume", "that server is stopped"
	v.Observation.Peers[0].Report.Blocked, v.Observation.Peers[0].Report.Override = "commits wait: a vote of n3", "pgsidecar failover --to n2"
	b := newBench(t, v, func(o *api.Options) { o.Control = &control{} })
	kept := "resumed\nn1: this member's server is not managed: the end of process 123; from now on: that server is stopped"
	for body, want := range map[string]string{``: kept, `{"members":["n1"]}`: kept, `{"members":["n2"]}`: "resumed"} {
		if w := b.send("POST", "/resume", bearer, body); w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %d %q", body, w.Code, w.Body)
		}
	}
}

func TestErrorsOfControl(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		path   string
		status int
		text   string
	}{
		"refused":  {api.Refuse(412, "switchover is not possible: %s lags", "n2"), "/switchover", 412, "n2 lags"},
		"failed":   {errors.New("the candidate died"), "/switchover", 503, "Switchover failed: the candidate died"},
		"too long": {context.DeadlineExceeded, "/switchover", 503, "Switchover status unknown"},
		"restart":  {errors.New("postgres exited"), "/restart", 503, "postgres exited"},
		"conflict": {api.Refuse(409, "changed by another"), "/config", 409, "changed by another"},
	} {
		b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control = &control{err: test.err} })
		method, body := "POST", `{}`
		switch test.path {
		case "/switchover":
			body = `{"leader":"n1","candidate":"n2"}`
		case "/config":
			method, body = "PATCH", `{"a":1}`
		}
		if w := b.send(method, test.path, bearer, body); w.Code != test.status || !strings.Contains(w.Body.String(), test.text) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	none := newBench(t, viewOf("n1"), nil)
	if w := none.send("POST", "/reload", bearer, ""); w.Code != 503 {
		t.Errorf("without control: %d", w.Code)
	}
}

var changes = []struct{ method, path string }{
	{"POST", "/switchover"}, {"DELETE", "/switchover"}, {"POST", "/failover"}, {"POST", "/restart"}, {"DELETE", "/restart"},
	{"POST", "/reinitialize"}, {"POST", "/reload"}, {"POST", "/pause"}, {"POST", "/resume"}, {"PATCH", "/config"}, {"PUT", "/config"}, {"POST", "/config/try"},
	{"POST", "/remove"}, {"POST", "/drill"}, {"PUT", "/drill"},
}

func TestUnauthenticatedChanges(t *testing.T) {
	for _, change := range changes {
		for name, auth := range map[string]string{
			"nothing": "", "wrong bearer": "Bearer letmei", "longer": "Bearer letmein2", "empty": "Bearer ", "basic": "Basic bjE6eA==",
			"other scheme": "Digest letmein", "garbage": "\x7f",
		} {
			c, log := &control{}, &lines{}
			b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control, o.Logger = c, log.logger() })
			w := b.send(change.method, change.path, auth, `{"leader":"n1"}`)
			if w.Code != 401 || c.last() != "" || len(w.Header().Values("WWW-Authenticate")) != 2 {
				t.Errorf("%s %s with %s: %d, asked %q", change.method, change.path, name, w.Code, c.last())
			}
			if got := log.all(); strings.Count(got, "change refused") != 1 || strings.Contains(got, "letme") {
				t.Errorf("%s: log: %s", name, got)
			}
		}
	}
}

func TestAuthenticatedChanges(t *testing.T) {
	for name, test := range map[string]struct {
		token  func() (string, error)
		header http.Header
		status int
	}{
		"bearer":             {nil, http.Header{"Authorization": {"Bearer letmein"}}, 202},
		"bearer, lower case": {nil, http.Header{"Authorization": {"bearer letmein"}}, 202},
		"basic":              {nil, http.Header{"Authorization": {"Basic YW55Ym9keTpsZXRtZWlu"}}, 202},
		"no token":           {func() (string, error) { return "", nil }, http.Header{"Authorization": {"Bearer "}}, 401},
		"unreadable":         {func() (string, error) { return "letmein", errors.New("gone") }, http.Header{"Authorization": {"Bearer letmein"}}, 401},
		"another site's page": {nil, http.Header{"Authorization": {"Basic YW55Ym9keTpsZXRtZWlu"}, "Sec-Fetch-Site": {"cross-site"},
			"Origin": {"https://evil.example"}}, 403},
	} {
		b := newBench(t, viewOf("n1"), func(o *api.Options) {
			o.Control = &control{}
			if test.token != nil {
				o.Token = test.token
			}
		})
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/reload", nil)
		r.Header = test.header
		b.Handler().ServeHTTP(w, r)
		if w.Code != test.status {
			t.Errorf("%s: %d, want %d", name, w.Code, test.status)
		}
	}
	b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control, o.Token = &control{}, nil })
	if w := b.send("POST", "/reload", "Bearer ", ""); w.Code != 401 {
		t.Errorf("no token function: %d", w.Code)
	}
}

func TestRefusedLinesAreBounded(t *testing.T) {
	log := &lines{}
	b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control, o.Logger = &control{}, log.logger() })
	for range 150 {
		b.send("POST", "/reload", "", "")
	}
	if n := strings.Count(log.all(), "change refused"); n != 100 {
		t.Errorf("%d lines", n)
	}
	b.now.Add(int64(61 * time.Second))
	b.send("POST", "/reload", "", "")
	if !strings.Contains(log.all(), "not_logged_before=50") {
		t.Error("the lines that were left out are not told")
	}
}

func TestOversizedBodies(t *testing.T) {
	c := &control{}
	address := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control = c }).run(t)
	large := `{"a":"` + strings.Repeat("x", 70_000) + `"}`
	for name, body := range map[string]io.Reader{
		"declared": strings.NewReader(large),
		"chunked":  io.MultiReader(strings.NewReader(large)),
	} {
		r, _ := http.NewRequest("PATCH", "http://"+address+"/config", body)
		r.Header.Set("Authorization", bearer)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge || c.last() != "" {
			t.Errorf("%s: %s, asked %q", name, resp.Status, c.last())
		}
	}
	// Without a token nothing of the body is read.
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second)) // shorter than the time for a body
	io.WriteString(conn, "PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
	b := make([]byte, 64)
	if n, err := conn.Read(b); err != nil || !bytes.HasPrefix(b[:n], []byte("HTTP/1.1 401")) {
		t.Errorf("%q, %v", b[:n], err)
	}
}

func TestParallelChangesAreBounded(t *testing.T) {
	release := make(chan struct{})
	var running, most atomic.Int32
	c := &control{begin: func(context.Context) {
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-release
		running.Add(-1)
	}}
	b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control = c })
	var refused atomic.Int32
	var group sync.WaitGroup
	for range 500 {
		group.Go(func() {
			if w := b.send("POST", "/reload", bearer, ""); w.Code == 503 {
				if refused.Add(1) == 500-32 {
					close(release)
				}
			}
		})
	}
	group.Wait()
	if most.Load() != 32 {
		t.Errorf("%d at once", most.Load())
	}
	if w := b.send("POST", "/reload", bearer, ""); w.Code != 202 {
		t.Errorf("afterwards: %d", w.Code)
	}
}

// A change may take longer than other answers.
func TestClientThatLeavesEndsTheWaiting(t *testing.T) {
	begun, left := make(chan struct{}), make(chan struct{})
	c := &control{begin: func(ctx context.Context) {
		close(begun)
		<-ctx.Done()
		close(left)
	}}
	address := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control = c }).run(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "POST", "http://"+address+"/restart", nil)
	r.Header.Set("Authorization", bearer)
	go http.DefaultClient.Do(r)
	<-begun
	cancel()
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting")
	}
}

// TestConfigVersion: GET names the version, and a change may insist on it.
func TestConfigVersion(t *testing.T) {
	c := &control{}
	b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control = c })
	v := *b.view.Load()
	v.Config, v.ConfigVersion = []byte(`{"a":1}`), 41
	v.Changes = []json.RawMessage{[]byte(`{"diff":"+ a = 1"}`)}
	b.view.Store(&v)
	if w := b.ask("GET", "/config"); w.Header().Get("ETag") != `"41"` {
		t.Errorf("ETag %q", w.Header().Get("ETag"))
	}
	if w := b.ask("GET", "/changes"); !strings.Contains(w.Body.String(), "+ a = 1") {
		t.Errorf("changes: %s", w.Body)
	}
	for match, want := range map[string]string{`"41"`: `config {"a":1} of version 41 by token`, "*": `config {"a":1} false`, "": `config {"a":1} false`, `"x"`: ""} {
		r := httptest.NewRequest("PATCH", "/config", strings.NewReader(`{"a":1}`))
		r.Header.Set("Authorization", bearer)
		r.Header.Set("If-Match", match)
		w := httptest.NewRecorder()
		c.asked = nil
		b.Handler().ServeHTTP(w, r)
		if c.last() != want || (w.Code == 412) != (want == "") {
			t.Errorf("If-Match %q: %d, asked %q", match, w.Code, c.last())
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, change := range changes {
		f.Add(change.method, change.path, "", `{"leader":"n1","candidate":"n2","scheduled_at":"2100-01-01T00:00:00Z"}`)
	}
	f.Add("GET", "/replica", "lag=10MB&tag_a=b&replication_state=streaming", "")
	f.Add("HEAD", "/readiness", "lag=1&mode=write", "")
	f.Add("POST", "/restart", "", `{"schedule":"2100-01-01 00:00Z","role":"replica","postgres_version":"15.2","timeout":"3 min"}`)
	f.Add("POST", "/pause", "", `{"for":90,"members":["n1"]}`)
	f.Add("POST", "/drill", "", `{"fault":"sidecar-stopped","seconds":10}`)
	f.Add("PUT", "/drill", "", `{"scenario":"x"}`)
	f.Add("PATCH", "/config", "", `{"parameters":{"work_mem":"8MB"}}`)
	drills := &rehearsals{}
	b := newBench(f, viewOf("n1"), func(o *api.Options) { o.Control, o.Drills = &control{to: "n2"}, drills })
	h := b.Handler()
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		r, err := http.NewRequest(method, "http://x/", strings.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path, r.URL.RawQuery = path, query
		r.Header.Set("Authorization", bearer)
		w := httptest.NewRecorder()
		drills.asked = nil
		h.ServeHTTP(w, r)
		if w.Code < 200 || w.Code > 599 || w.Code == 500 && !strings.Contains(w.Body.String(), "paused") {
			t.Fatalf("%s %s?%s %q: %d %s", method, path, query, body, w.Code, w.Body)
		}
		r.Header.Del("Authorization")
		w = httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code/100 == 2 && method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions {
			t.Fatalf("%s %s without token: %d", method, path, w.Code)
		}
	})
}
