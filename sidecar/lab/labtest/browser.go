package labtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Browser is a headless Chromium with one page, driven by the DevTools protocol over a
// pipe. What the page says on its console, and what it fails to load, is kept.
type Browser struct {
	t       testing.TB
	to      *os.File
	session string

	mu       sync.Mutex
	next     int
	waiting  map[int]chan answer
	faults   []string
	requests []string
}

// answer is what the browser says to a call.
type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// Viewport is a window; Dark: the person prefers dark colours.
type Viewport struct {
	Width, Height int
	Dark          bool
}

// browserTimeout bounds one call.
const browserTimeout = time.Minute

// StartBrowser starts Chromium, which ends with the test. Without Chromium the test is
// skipped.
func StartBrowser(t testing.TB) *Browser {
	t.Helper()
	NeedPrograms(t)
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed (make chromium): the page is not opened")
	}
	ctx, cancel := context.WithCancel(context.Background())
	in, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
		"--user-data-dir="+filepath.Join(t.TempDir(), "profile"), "about:blank")
	cmd.ExtraFiles = []*os.File{in, out} // 3 and 4, as the flag has it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	out.Close()
	b := &Browser{t: t, to: to, waiting: map[int]chan answer{}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b.read(from)
	}()
	t.Cleanup(func() {
		b.tell("", "Browser.close", nil)
		stop := time.AfterFunc(10*time.Second, cancel)
		_ = cmd.Wait() // it was asked to end, or is killed
		stop.Stop()
		cancel()
		to.Close()
		from.Close()
		<-read
	})
	b.attach()
	return b
}

// attach makes the one page.
func (b *Browser) attach() {
	var target struct{ TargetID string }
	b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var session struct{ SessionID string }
	b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	b.session = session.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(b.session, domain+".enable", nil, nil)
	}
}

// read takes messages until the browser has ended.
func (b *Browser) read(from *os.File) {
	lines := bufio.NewReader(from)
	for {
		text, err := lines.ReadBytes(0)
		if err != nil {
			b.mu.Lock()
			for id, ch := range b.waiting {
				ch <- answer{Error: &struct{ Message string }{"the browser has ended"}}
				delete(b.waiting, id)
			}
			b.mu.Unlock()
			return
		}
		b.take(text[:len(text)-1])
	}
}

// take handles one message.
func (b *Browser) take(text []byte) {
	var m struct {
		ID     int
		Method string
		Params json.RawMessage
		answer
	}
	if json.Unmarshal(text, &m) != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if ch, ok := b.waiting[m.ID]; ok && m.ID != 0 {
		delete(b.waiting, m.ID)
		ch <- m.answer
		return
	}
	switch m.Method {
	case "Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled":
		b.faults = append(b.faults, string(m.Params))
	case "Network.requestWillBeSent":
		var sent struct{ Request struct{ URL string } }
		if json.Unmarshal(m.Params, &sent) == nil {
			b.requests = append(b.requests, sent.Request.URL)
		}
	}
}

// tell sends a call, and returns where its answer comes.
func (b *Browser) tell(session, method string, params any) (chan answer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next++
	call := map[string]any{"id": b.next, "method": method}
	if params != nil {
		call["params"] = params
	}
	if session != "" {
		call["sessionId"] = session
	}
	text, err := json.Marshal(call)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", method, err)
	}
	ch := make(chan answer, 1)
	b.waiting[b.next] = ch
	_, err = b.to.Write(append(text, 0))
	return ch, err
}

func (b *Browser) ask(session, method string, params, to any) error {
	ch, err := b.tell(session, method, params)
	if err != nil {
		return err
	}
	timer := time.NewTimer(browserTimeout)
	defer timer.Stop()
	select {
	case a := <-ch:
		if a.Error != nil {
			return fmt.Errorf("%s: %s", method, a.Error.Message)
		}
		if to == nil {
			return nil
		}
		return json.Unmarshal(a.Result, to)
	case <-timer.C:
		return errors.New(method + ": no answer")
	}
}

func (b *Browser) call(session, method string, params, to any) {
	b.t.Helper()
	if err := b.ask(session, method, params, to); err != nil {
		b.t.Fatal(err)
	}
}

// Open opens a page in a window.
func (b *Browser) Open(url string, v Viewport) {
	b.t.Helper()
	b.call(b.session, "Emulation.setDeviceMetricsOverride", map[string]any{"width": v.Width, "height": v.Height, "deviceScaleFactor": 1, "mobile": v.Width < 600}, nil)
	scheme := "light"
	if v.Dark {
		scheme = "dark"
	}
	b.call(b.session, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.call(b.session, "Page.navigate", map[string]any{"url": url}, nil)
}

// Eval runs an expression in the page, and reads its value into to, unless that is nil. A
// promise is awaited.
func (b *Browser) Eval(expression string, to any) {
	b.t.Helper()
	if err := b.TryEval(expression, to); err != nil {
		b.t.Fatal(err)
	}
}

// TryEval is Eval, with the error returned.
func (b *Browser) TryEval(expression string, to any) error {
	var got struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := b.ask(b.session, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true}, &got)
	switch {
	case err != nil:
		return err
	case got.ExceptionDetails != nil:
		return fmt.Errorf("%s: %s %s", expression, got.ExceptionDetails.Text, got.ExceptionDetails.Exception.Description)
	case to == nil || len(got.Result.Value) == 0:
		return nil
	}
	return json.Unmarshal(got.Result.Value, to)
}

// Await waits until an expression is true.
func (b *Browser) Await(expression string) {
	b.t.Helper()
	Eventually(b.t, time.Minute, expression, func() error {
		var is bool
		if err := b.TryEval("!!("+expression+")", &is); err != nil {
			return err
		}
		if !is {
			return errNotYet
		}
		return nil
	})
}

// Key presses a key, such as Tab or Enter.
func (b *Browser) Key(name string) {
	b.t.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
	press := map[string]any{"type": "keyDown", "key": name, "windowsVirtualKeyCode": codes[name]}
	if name == "Enter" {
		press["text"] = "\r"
	}
	b.call(b.session, "Input.dispatchKeyEvent", press, nil)
	b.call(b.session, "Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": name, "windowsVirtualKeyCode": codes[name]}, nil)
}

// Type types text into what has the focus.
func (b *Browser) Type(text string) {
	b.t.Helper()
	b.call(b.session, "Input.insertText", map[string]any{"text": text}, nil)
}

// Screenshot writes a picture of the whole page, if SCREENSHOTS names a folder.
func (b *Browser) Screenshot(name string) {
	b.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	var shot struct{ Data []byte }
	b.call(b.session, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot)
	if err := os.WriteFile(filepath.Join(dir, name+".png"), shot.Data, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// Complaints returns what the page has said on its console since the last call, what it
// failed to load, and what it threw.
func (b *Browser) Complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.faults
	b.faults = nil
	return all
}

// RequestsElsewhere returns the addresses that the page loaded and that do not begin with
// an origin.
func (b *Browser) RequestsElsewhere(origin string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, url := range b.requests {
		if !strings.HasPrefix(url, origin) && url != "about:blank" {
			all = append(all, url)
		}
	}
	return all
}
