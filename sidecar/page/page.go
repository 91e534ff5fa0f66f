package page

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Source is what the page shows. Its methods but Seldom answer from memory, and are
// called by one goroutine for all open pages.
type Source interface {
	// Live is what changes all the time, as JSON; nil: nothing is known yet.
	Live() any
	// Past is what changes seldom, and its version, which is another when it has.
	Past() (version string, read func() any)
	// Urgent changes with what a page must show at once, such as who leads.
	Urgent() string
	// Next is closed when something may have changed; nil: only time tells.
	Next() <-chan struct{}
	// Seldom is what only Consul knows, as JSON, as far as it answers.
	Seldom(ctx context.Context) any
	// Elsewhere is what other hosts say of themselves, as JSON; nil: it never asks any.
	Elsewhere(ctx context.Context) any
}

const (
	// MaxStreams is how many pages may be open at one member.
	MaxStreams = 128
	// calm is how often a page is told what is not urgent; spacing is the least time
	// between two looks at what may be.
	calm    = time.Second
	spacing = 50 * time.Millisecond
	// writeTimeout is how long a browser may take to receive an event.
	writeTimeout = 10 * time.Second
	// seldomAge is how long Consul's answer is told from memory, and seldomTimeout
	// bounds the asking.
	seldomAge     = 10 * time.Second
	seldomTimeout = 5 * time.Second
	// elsewhereEvery is how often other hosts are asked while a page is open, and
	// elsewhereTimeout bounds the asking.
	elsewhereEvery   = 5 * time.Second
	elsewhereTimeout = 4 * time.Second
)

// Page serves the page. Close ends its streams.
type Page struct {
	source Source
	log    hclog.Logger
	closed context.Context
	Close  context.CancelFunc

	mu      sync.Mutex
	streams int
	stop    context.CancelFunc // of follow and ask; nil: they do not run
	newest  *frame
	news    chan struct{} // closed with the next frame
	asked   []byte        // the event of what other hosts say; nil: they were not asked yet

	seldom memory
}

// frame is one event for all streams.
type frame struct {
	live, past []byte // past: as it was last made
	version    string // of past
	elsewhere  []byte // nil: nothing is known yet
}

// memory is what Consul was last asked for.
type memory struct {
	mu   sync.Mutex
	made time.Time
	text []byte
}

// New returns the page of a source.
func New(source Source, log hclog.Logger) *Page {
	p := &Page{source: source, log: log, news: make(chan struct{})}
	p.closed, p.Close = context.WithCancel(context.Background())
	return p
}

// ServeHTTP answers GET and HEAD of a path under /ui.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protect(w.Header())
	switch r.URL.Path {
	case "/ui/events":
		p.events(w, r)
	case "/ui/seldom":
		p.askSeldom(w, r)
	case "/ui/":
		w.Header().Set("Location", "../ui") // the page names its files relative to /ui
		w.WriteHeader(http.StatusPermanentRedirect)
	default:
		serveFile(w, r)
	}
}

// events sends frames until the browser, or this server, ends the stream.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusOK)
		return
	}
	if !p.join() {
		w.Header().Set("Retry-After", "10")
		http.Error(w, fmt.Sprintf("%d pages are open already", MaxStreams), http.StatusServiceUnavailable)
		return
	}
	defer p.leave()
	to := http.NewResponseController(w)
	// The server's own limit of a request's time would end the stream.
	if err := to.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	var sent *frame
	for {
		f, next := p.frame()
		if f != nil && f != sent {
			if err := send(w, to, f.since(sent)); err != nil {
				return
			}
			sent = f
		}
		select {
		case <-next:
		case <-r.Context().Done():
			return
		case <-p.closed.Done():
			return
		}
	}
}

// since are the events that a stream lacks which has sent another frame; nil: none.
func (f *frame) since(sent *frame) [][]byte {
	var events [][]byte
	if sent == nil || sent.version != f.version {
		events = append(events, f.past)
	}
	if sent == nil || !bytes.Equal(sent.elsewhere, f.elsewhere) {
		events = append(events, f.elsewhere)
	}
	return append(events, f.live)
}

func send(w http.ResponseWriter, to *http.ResponseController, events [][]byte) error {
	if err := to.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	for _, e := range events {
		if _, err := w.Write(e); err != nil {
			return err
		}
	}
	return to.Flush()
}

// frame is the newest, and what is closed with the next.
func (p *Page) frame() (*frame, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.newest, p.news
}

// join counts a stream, and starts follow and ask with the first.
func (p *Page) join() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams >= MaxStreams || p.closed.Err() != nil {
		return false
	}
	p.streams++
	if p.stop == nil {
		var ctx context.Context
		ctx, p.stop = context.WithCancel(p.closed)
		p.newest, p.asked = nil, nil // they are from when a page was last open
		go p.follow(ctx)
		go p.ask(ctx)
	}
	return true
}

func (p *Page) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams--; p.streams == 0 {
		p.stop()
		p.stop = nil
	}
}

// follow makes frames until ctx ends.
func (p *Page) follow(ctx context.Context) {
	var last *frame
	var urgent string
	var made time.Time
	for {
		next := p.source.Next() // before the look, so that no change is missed
		if now := p.source.Urgent(); made.IsZero() || now != urgent || time.Since(made) >= calm {
			urgent, made = now, time.Now()
			if f, err := p.make(last); err != nil {
				p.log.Error("the page's event cannot be written", "error", err)
			} else if f != nil {
				last = f
				p.publish(ctx, f)
			}
		}
		if !pause(ctx, spacing, nil) || !pause(ctx, calm-time.Since(made), next) {
			return
		}
	}
}

// pause waits for a time, or less if woken; false: ctx has ended.
func pause(ctx context.Context, d time.Duration, woken <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-woken:
	case <-ctx.Done():
		return false
	}
	return true
}

// make returns the next frame; nil: nothing is known yet.
func (p *Page) make(last *frame) (*frame, error) {
	version, read := p.source.Past()
	live := p.source.Live()
	if live == nil {
		return nil, nil
	}
	f := &frame{version: version}
	var err error
	if f.live, err = event("live", live); err != nil {
		return nil, err
	}
	if last != nil && last.version == version {
		f.past = last.past
		return f, nil
	}
	f.past, err = event("past", read())
	return f, err
}

// event is a server-sent event. JSON has no line breaks of its own.
func event(name string, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", name, err)
	}
	return slices.Concat([]byte("event: "+name+"\ndata: "), text, []byte("\n\n")), nil
}

func (p *Page) publish(ctx context.Context, f *frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		return // another follow may run already
	}
	f.elsewhere = p.asked
	p.newest = f
	close(p.news)
	p.news = make(chan struct{})
}

// ask asks other hosts until ctx ends. The next frame has what they say.
func (p *Page) ask(ctx context.Context) {
	for {
		asking, cancel := context.WithTimeout(ctx, elsewhereTimeout)
		found := p.source.Elsewhere(asking)
		cancel()
		if found == nil {
			return // there is nobody to ask
		}
		text, err := event("elsewhere", found)
		if err != nil {
			p.log.Error("what other hosts say cannot be written for the page", "error", err)
		}
		p.mu.Lock()
		if ctx.Err() == nil { // else another ask may run already
			p.asked = text
		}
		p.mu.Unlock()
		if !pause(ctx, elsewhereEvery, nil) {
			return
		}
	}
}

// askSeldom answers with what Consul says, which is asked once in a while at most.
func (p *Page) askSeldom(w http.ResponseWriter, r *http.Request) {
	m := &p.seldom
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.made.IsZero() || time.Since(m.made) > seldomAge {
		// Not the request's context: others wait for the same answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), seldomTimeout)
		defer cancel()
		text, err := json.Marshal(p.source.Seldom(ctx))
		if err != nil {
			p.log.Error("what Consul says cannot be written for the page", "error", err)
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		m.text, m.made = text, time.Now()
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(m.text) // the browser may be gone
}
