package templates

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A program that is told to read its file again by a signal may miss it, and no answer
// says so. HAProxy misses one that comes during its reload (measured on 2.6.12, twelve
// signals of eighty, of those that came 50 ms after another seven of eight). Two things
// are done about that: a command that ran soon after itself runs once more (soonAfter),
// and where a Proxy shows what HAProxy runs with, a file that it has not taken up is told
// of again (confirmTaken).

// soon is how long after a run of a command another may be missed. HAProxy needs 20 to
// 60 ms to reload, and some hundred on a busy host.
const soon = time.Second

// soonAfter notes that a command runs, and reports whether it ran just before.
func (a *Agent) soonAfter(key any, now time.Time) bool {
	last, ran := a.ran[key]
	a.ran[key] = now
	return ran && now.Sub(last) < soon
}

const (
	// confirmEvery is how often what HAProxy runs with is compared with the files.
	confirmEvery = time.Second
	// takesUp is how long HAProxy may need to take a file up before that counts as missed.
	takesUp = 2 * time.Second
	// mostPatience bounds how long to wait until it is told again.
	mostPatience = 5 * time.Minute
)

// untaken is a file that HAProxy has not taken up.
type untaken struct {
	server   string        // of the file, that HAProxy does not have; empty: it has all
	since    time.Time     // when that was first seen
	told     time.Time     // when its command was last owed for that
	patience time.Duration // until it is owed again; doubles
}

// confirmTaken looks for files that name a server that HAProxy does not have. They are
// wrong until it does, and their command is owed again. It reports whether any is owed.
func (a *Agent) confirmTaken(now time.Time) bool {
	var missing []string
	for _, p := range a.options.Proxies {
		missing = append(missing, p.Status().Missing...)
	}
	owing := false
	for i := range a.options.Files {
		f := &a.options.Files[i]
		server := ""
		if len(missing) > 0 {
			server = f.names(missing)
		}
		if !a.late(i, server, now) || !a.repeats(i, now) {
			continue
		}
		a.note(i, fmt.Errorf("%w: it has no server %s", ErrNotTaken, server), nil)
		if !f.notifies() {
			continue
		}
		a.turns[i].Lock()
		path, err := resolve(f.Destination)
		if err == nil {
			err = f.recordOwed(path)
		}
		a.turns[i].Unlock()
		if err != nil {
			a.note(i, err, nil)
			continue
		}
		owing = true
	}
	return owing
}

// names returns the first of the servers that the file has; nothing if it has none. A
// file of other servers says nothing of these.
func (f *File) names(servers []string) string {
	content, err := f.CurrentContent()
	if err != nil {
		return ""
	}
	text := string(content)
	i := slices.IndexFunc(servers, func(s string) bool { return strings.Contains(text, "server "+s) })
	if i < 0 {
		return ""
	}
	return servers[i]
}

// late keeps what HAProxy lacks of the file. It reports whether it has lacked it for
// longer than it takes to read a file; the end of that ends the file's error.
func (a *Agent) late(i int, server string, now time.Time) bool {
	a.mu.Lock()
	u := &a.untaken[i]
	before := *u
	switch {
	case server == "":
		*u = untaken{}
	case before.server == "":
		*u = untaken{server: server, since: now}
	default:
		u.server = server
	}
	a.mu.Unlock()
	if server == "" && !before.told.IsZero() {
		a.note(i, nil, func(*FileStatus) {})
	}
	return server != "" && before.server != "" && now.Sub(before.since) >= takesUp
}

// repeats reports whether it is time for the file's command again, and notes that it is.
func (a *Agent) repeats(i int, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := &a.untaken[i]
	if now.Sub(u.told) < u.patience {
		return false
	}
	u.told, u.patience = now, min(max(2*u.patience, a.options.Retry), mostPatience)
	return true
}
