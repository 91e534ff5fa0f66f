package page_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/page"
)

func TestMain(m *testing.M) {
	if url := os.Getenv("PAGE_TEST_READERS"); url != "" {
		readers(url)
		return
	}
	os.Exit(m.Run())
}

// stream reads a page's events, one for each call; "" at its end.
func stream(t testing.TB, url string) func() (name, data string) {
	t.Helper()
	resp := get(t, url+"/ui/events")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(resp.Status, resp.Header)
	}
	lines := bufio.NewReader(resp.Body)
	return func() (name, data string) {
		for {
			line, err := lines.ReadString('\n')
			switch line = strings.TrimSpace(line); {
			case err != nil:
				return "", ""
			case line == "":
				return name, data
			case strings.HasPrefix(line, "event: "):
				name = strings.TrimPrefix(line, "event: ")
			default:
				data = strings.TrimPrefix(line, "data: ")
			}
		}
	}
}

// TestEvents: what is over comes first, and again only when it has changed; a decision
// that changes who leads comes at once, other things within a second or so.
func TestEvents(t *testing.T) {
	w := newWorld("pg", "n1", "n2", "n3")
	next := stream(t, w.serve(t, nil))
	if name, data := next(); name != "past" || !strings.Contains(data, `"terms":[{"term":1`) || !strings.Contains(data, "work_mem") {
		t.Fatalf("%s: %s", name, data)
	}
	for range 2 {
		if name, data := next(); name != "live" || !strings.Contains(data, `"leader":"n1"`) {
			t.Fatalf("%s: %s", name, data)
		}
	}
	w.lead("n3")
	seen := map[string]bool{}
	for !seen["past"] || !seen["live"] {
		name, data := next()
		switch {
		case name == "":
			t.Fatal("the stream has ended")
		case name == "past" && strings.Contains(data, `"term":8`), name == "live" && strings.Contains(data, `"leader":"n3"`):
			seen[name] = true
		}
	}
}

// TestElsewhere: other hosts are asked while a page is open, and each page is told what
// they say once.
func TestElsewhere(t *testing.T) {
	w := newWorld("pg", "n1", "n2", "n3")
	var asked atomic.Int32
	url := w.serve(t, func(o *api.Options) {
		o.Page.Elsewhere = func(context.Context) ([]api.RouteElsewhere, error) {
			asked.Add(1)
			return []api.RouteElsewhere{{Host: "app1", Problem: "away"}}, errors.New("no right to read")
		}
	})
	if resp := get(t, url+"/ui/seldom"); resp.StatusCode != http.StatusOK || asked.Load() != 0 {
		t.Errorf("%s; asked %d times without an open page", resp.Status, asked.Load())
	}
	for range 2 { // pages
		next, told := stream(t, url), 0
		for live := 0; live < 2 || told == 0; {
			name, data := next()
			switch {
			case name == "":
				t.Fatal("the stream has ended")
			case name == "live":
				live++
			case name == "elsewhere" && data == `{"routes":[{"host":"app1","problem":"away"}],"problem":"no right to read"}`:
				told++
			}
		}
		if told != 1 {
			t.Errorf("told %d times", told)
		}
	}
}

// TestStreamsAreBounded: one stream too many is refused, and its place is free when a page
// is closed; the member stops at once although pages are open.
func TestStreamsAreBounded(t *testing.T) {
	w := newWorld("pg", "n1", "n2", "n3")
	url := w.serve(t, nil)
	var last *http.Response
	for range page.MaxStreams {
		last = get(t, url+"/ui/events")
		if last.StatusCode != http.StatusOK {
			t.Fatal(last.Status)
		}
	}
	if resp := get(t, url+"/ui/events"); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Error(resp.Status)
	}
	if resp := get(t, url+"/primary"); resp.StatusCode != http.StatusOK {
		t.Errorf("with all pages open: /primary is %s", resp.Status)
	}
	last.Body.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for get(t, url+"/ui/events").StatusCode != http.StatusOK {
		<-tick.C
	}
}

// TestStopsWithOpenPages: open pages do not hold the member's stop up.
func TestStopsWithOpenPages(t *testing.T) {
	w := newWorld("pg", "n1", "n2", "n3")
	o := api.Options{Member: "n1", Cluster: "pg", Listen: "127.0.0.1:0", View: func() *api.View { return w.view }, Now: nowOf(w), Page: &api.PageOptions{}}
	s, err := api.New(o)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- s.Run(ctx) }()
	next := stream(t, "http://"+addr.String())
	next()
	begun := time.Now()
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 900*time.Millisecond { // a second is what requests under way are given
		t.Errorf("the member stopped after %v", took)
	}
}

// TestStreamOutlastsRequests: a page stays open for longer than any request may take.
func TestStreamOutlastsRequests(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the server's ten seconds")
	}
	w := newWorld("pg", "n1", "n2", "n3")
	next := stream(t, w.serve(t, nil))
	for begun := time.Now(); time.Since(begun) < 12*time.Second; {
		if name, _ := next(); name == "" {
			t.Fatalf("the stream ended after %v", time.Since(begun))
		}
	}
}

// TestTurnedOff: without the page nothing of it is there.
func TestTurnedOff(t *testing.T) {
	url := newWorld("pg", "n1", "n2", "n3").serve(t, func(o *api.Options) { o.Page = nil })
	for _, path := range []string{"/ui", "/ui/", "/ui/page.js", "/ui/events", "/ui/seldom"} {
		if resp := get(t, url+path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

// TestHeaders: each answer forbids what the page does not need, and files are sent once.
func TestHeaders(t *testing.T) {
	url := newWorld("pg", "n1", "n2", "n3").serve(t, nil)
	for path, kind := range map[string]string{"/ui": "text/html; charset=utf-8", "/ui/page.js": "text/javascript; charset=utf-8",
		"/ui/page.css": "text/css; charset=utf-8", "/ui/icon.svg": "image/svg+xml", "/ui/uplot/LICENSE": "text/plain; charset=utf-8",
		"/ui/seldom": "application/json", "/ui/events": "text/event-stream"} {
		resp := get(t, url+path)
		policy := resp.Header.Get("Content-Security-Policy")
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != kind || resp.Header.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
			t.Errorf("%s: %s %v", path, resp.Status, resp.Header)
		}
	}
	for _, path := range []string{"/ui/../ui/page.js/", "/ui/none.js", "/ui/files/page.js", "/ui/uplot", "/uix"} {
		if resp := get(t, url+path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	version := get(t, url+"/ui/page.js").Header.Get("ETag")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/ui/page.js", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("If-None-Match", version)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotModified || version == "" {
		t.Error(resp.Status, version)
	}
	r.Method = http.MethodPost
	if resp, err = http.DefaultClient.Do(r); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
}

// TestNoMarkupFromText: nothing in the page's own scripts makes markup or code of text.
func TestNoMarkupFromText(t *testing.T) {
	forbidden := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser|createContextualFragment|https?://[^w]|localStorage|\.cookie`)
	scripts, err := filepath.Glob("files/*.*")
	if err != nil || len(scripts) < 5 {
		t.Fatal(scripts, err)
	}
	for _, name := range scripts {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if found := forbidden.FindString(string(text)); found != "" {
			t.Errorf("%s: %s", name, found)
		}
		if strings.HasSuffix(name, ".html") && regexp.MustCompile(`\son\w+=|style=|<script>|<style>`).Match(text) {
			t.Errorf("%s: a script or a style in the text", name)
		}
	}
	if !forbidden.MatchString("e.innerHTML = text") || forbidden.MatchString("e.textContent = text") {
		t.Error("the search finds nothing, or too much")
	}
}

// TestHundredPages: a hundred open pages cost the member less than a hundredth of a core:
// the best of three times counts, as what else runs on a machine costs caches.
func TestHundredPages(t *testing.T) {
	if testing.Short() {
		t.Skip("measures for five seconds")
	}
	w := newWorld("pg", "n1", "n2", "n3")
	url := w.serve(t, nil)
	w.view.Outages = nil
	other := exec.CommandContext(t.Context(), os.Args[0])
	other.Env = append(os.Environ(), "PAGE_TEST_READERS="+url)
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); line != "open\n" {
		t.Fatal(line, err)
	}
	tick := time.NewTicker(250 * time.Millisecond) // decisions, as those of a busy member
	defer tick.Stop()
	best := 1.0
	for range 3 {
		begun, before := time.Now(), processor(t)
		for time.Since(begun) < 5*time.Second {
			<-tick.C
			w.change(func(v *api.View) { v.Observation.Server.Position.LSN += 4096 })
		}
		share := (processor(t) - before).Seconds() / time.Since(begun).Seconds()
		t.Logf("%.2f %% of a core", share*100)
		if best = min(best, share); best < 0.01 {
			break
		}
	}
	if err := other.Process.Kill(); err != nil {
		t.Error(err)
	}
	rest, _ := io.ReadAll(said)
	_ = other.Wait() // it was killed
	if len(rest) > 0 {
		t.Errorf("the readers: %s", rest)
	}
	if best >= 0.01 {
		t.Errorf("100 pages cost %.2f %% of a core", best*100)
	}
}

func processor(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// readers are a hundred browsers, in a process of their own.
func readers(url string) {
	for range 100 {
		resp, err := http.Get(url + "/ui/events") //nolint:noctx // the test kills this process
		if err != nil || resp.StatusCode != http.StatusOK {
			fmt.Println("cannot open:", err)
			return
		}
		go io.Copy(io.Discard, resp.Body) //nolint:errcheck // until the test kills this process
	}
	fmt.Println("open")
	select {}
}
