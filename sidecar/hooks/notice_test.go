package hooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// receiver answers with these statuses, in turn, then 200; it hands on what it gets.
type receiver struct {
	*httptest.Server
	got chan *http.Request
	say chan string // the bodies
}

func newReceiver(t *testing.T, statuses ...int) *receiver {
	t.Helper()
	answers := make(chan int, len(statuses))
	for _, s := range statuses {
		answers <- s
	}
	r := &receiver{got: make(chan *http.Request, 100), say: make(chan string, 100)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.got <- req
		r.say <- string(body)
		select {
		case status := <-answers:
			if status == http.StatusFound {
				w.Header().Set("Location", "http://127.0.0.1:1/")
			}
			w.WriteHeader(status)
		default:
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func TestNotice(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("the key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		statuses []int
		attempts int
		refused  bool
		fails    bool
	}{
		"taken":          {nil, 1, false, false},
		"taken at last":  {[]int{500, 429, 503}, 4, false, false},
		"refused":        {[]int{400}, 1, true, true},
		"sent elsewhere": {[]int{302}, 1, true, true},
		"never":          {[]int{500, 500, 500, 500, 500, 500, 500}, attempts, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			to := newReceiver(t, c.statuses...)
			d, r := dispatcher(t)
			if err := d.Set(nil, []Notice{{Name: "n", On: []Kind{Failover}, URL: to.URL, Format: FormatJSON, KeyFile: key, Timeout: generous}}); err != nil {
				t.Fatal(err)
			}
			d.Tell(Event{Kind: Failover, Summary: "n2 leads"})
			err := r.next(t)
			if (err != nil) != c.fails || errors.Is(err, ErrRefused) != c.refused || len(to.got) != c.attempts {
				t.Fatalf("%d attempts: %v", len(to.got), err)
			}
			req, body := <-to.got, <-to.say
			mac := hmac.New(sha256.New, []byte("the key"))
			mac.Write([]byte(body))
			if got := req.Header.Get(SignatureHeader); got != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
				t.Errorf("signature %q", got)
			}
			if strings.Contains(body, "the key") {
				t.Error("the key is in the body")
			}
		})
	}
}

// TestSlowReceiver: one that does not answer delays nobody else, and is given up.
func TestSlowReceiver(t *testing.T) {
	hang := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer slow.Close()
	defer close(hang)
	to := newReceiver(t)
	d, r := dispatcher(t)
	if err := d.Set(nil, []Notice{
		{Name: "slow", On: []Kind{Failover}, URL: slow.URL, Format: FormatJSON, Timeout: 20 * time.Millisecond},
		{Name: "n", On: []Kind{Failover}, URL: to.URL, Format: FormatJSON, Timeout: generous},
	}); err != nil {
		t.Fatal(err)
	}
	d.Tell(Event{Kind: Failover})
	byName := map[string]error{}
	for range 2 {
		got := <-r
		byName[got.name] = got.err
	}
	if byName["n"] != nil || byName["slow"] == nil || strings.Contains(byName["slow"].Error(), slow.URL) {
		t.Error(byName)
	}
}

func TestFormats(t *testing.T) {
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	blocked := Event{ID: "1", Kind: Blocked, At: at, Cluster: "pg", Member: "n1", Leader: "n2", Summary: "commits wait", Details: map[string]string{"waiting_for": "n3"}}
	over := Event{ID: "2", Kind: Unblocked, At: at, Cluster: "pg", Member: "n1", Summary: "nothing waits"}
	read := func(format string, e *Event) map[string]any {
		t.Helper()
		body, err := formats[format](e, "routing key")
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, f := range Formats {
		read(f, &blocked) // all are JSON
	}
	open, closed := read(FormatAlertmanager, &blocked), read(FormatAlertmanager, &over)
	if open["status"] != "firing" || closed["status"] != "resolved" || open["groupKey"] != closed["groupKey"] || open["version"] != "4" {
		t.Errorf("alertmanager: %v %v", open, closed)
	}
	open, closed = read(FormatPagerDuty, &blocked), read(FormatPagerDuty, &over)
	if open["event_action"] != "trigger" || closed["event_action"] != "resolve" || open["dedup_key"] != closed["dedup_key"] || open["routing_key"] != "routing key" {
		t.Errorf("pagerduty: %v %v", open, closed)
	}
	n := noticeTarget{notice: Notice{URL: "https://api.example/v2/alerts", Format: FormatOpsgenie}}
	if alias := read(FormatOpsgenie, &blocked)["alias"]; alias != over.topic() {
		t.Errorf("opsgenie: %v", alias)
	}
	if got := n.address(&over); got != "https://api.example/v2/alerts/pgsidecar%2Fpg%2Fn1%2Fblocked/close?identifierType=alias" {
		t.Error(got)
	}
}
