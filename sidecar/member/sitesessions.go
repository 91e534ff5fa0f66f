package member

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
)

// siteSession is a session with a server of the other site (checks.SiteConn).
type siteSession interface {
	Ask(ctx context.Context) (checks.SiteServer, error)
	Wait(ctx context.Context) error
	EnsureSlot(ctx context.Context, name string) error
	DropSlot(ctx context.Context, name string) error
	Close(ctx context.Context) error
}

// siteAnswer is what a server of the other site said.
type siteAnswer struct {
	address string
	session siteSession // nil: there is none
	said    checks.SiteServer
	err     error
	silent  bool // it has not answered this time: err is what it last failed with
}

// siteSessions are the sessions with the servers of the other site. Each question is asked by a
// goroutine that has the server's session meanwhile; a server that is slow to answer keeps
// nobody from hearing the others. One goroutine calls its methods.
type siteSessions struct {
	dial    func(ctx context.Context, address string) siteAnswer
	answers chan siteAnswer
	tasks   *sync.WaitGroup

	open    map[string]siteSession // that nobody uses
	asked   map[string]bool        // whose answer is still to come
	failed  map[string]siteFailure
	askedAt time.Time // all were, the last time
}

// siteFailure is why a server has not answered, and when that was known.
type siteFailure struct {
	err error
	at  time.Time
}

const (
	// sessionsEvery is how often those that are kept for later are tried.
	sessionsEvery = 5 * time.Second
	// redialPause is at least between two attempts to reach a server.
	redialPause = 500 * time.Millisecond
	// answerGrace is at least how long the others may take when one has answered.
	answerGrace = 100 * time.Millisecond
)

var errNoAnswer = errors.New("it has not answered yet")

func newSiteSessions(dial func(ctx context.Context, address string) siteAnswer) siteSessions {
	return siteSessions{dial: dial, answers: make(chan siteAnswer), tasks: new(sync.WaitGroup),
		open: map[string]siteSession{}, asked: map[string]bool{}, failed: map[string]siteFailure{}}
}

// due reports whether the servers are to be asked, as a session with one is missing, or may
// have ended.
func (q *siteSessions) due(servers []string) bool {
	return time.Since(q.askedAt) >= sessionsEvery || slices.ContainsFunc(servers, func(a string) bool {
		return q.open[a] == nil && !q.asked[a] && time.Since(q.failed[a].at) >= siteEvery
	})
}

// withAll reports whether there is a session with each server, which nobody uses now.
func (q *siteSessions) withAll(servers []string) bool {
	return !slices.ContainsFunc(servers, func(a string) bool { return q.open[a] == nil })
}

// ask asks the servers, side by side; their answers come by the channel.
func (q *siteSessions) ask(ctx context.Context, servers []string) {
	q.askedAt = time.Now()
	for _, address := range servers {
		session := q.open[address]
		if q.asked[address] || session == nil && time.Since(q.failed[address].at) < redialPause {
			continue
		}
		q.asked[address] = true
		delete(q.open, address)
		q.tasks.Go(func() {
			a := q.question(ctx, address, session)
			select {
			case q.answers <- a:
			case <-ctx.Done():
				closeSession(a.session)
			}
		})
	}
}

// question asks one server, over a session or a new one.
func (q *siteSessions) question(ctx context.Context, address string, session siteSession) siteAnswer {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if session != nil {
		once, done := context.WithTimeout(ctx, siteAnswerTime)
		defer done()
		if said, err := session.Ask(once); err == nil {
			return siteAnswer{address: address, session: session, said: said}
		}
		closeSession(session)
	}
	return q.dial(ctx, address)
}

// round asks the servers, and returns what they say: all that have answered when one has, and
// the others had as long again. For one that did not what it last failed with stands.
func (q *siteSessions) round(ctx context.Context, servers []string) []siteAnswer {
	began := time.Now()
	q.ask(ctx, servers)
	patience := time.NewTimer(askTimeout)
	defer patience.Stop()
	var answers []siteAnswer
	answered := map[string]bool{}
	for heard := false; slices.ContainsFunc(servers, func(a string) bool { return q.asked[a] }); {
		select {
		case a := <-q.answers:
			if !slices.Contains(servers, a.address) {
				q.take(a, false)
				continue
			}
			delete(q.asked, a.address)
			answered[a.address] = true
			if answers = append(answers, a); a.err == nil && !heard {
				heard = true
				patience.Reset(max(time.Since(began), answerGrace))
			}
			continue
		case <-patience.C:
		case <-ctx.Done():
		}
		break
	}
	for _, address := range servers {
		if !answered[address] {
			err := q.failed[address].err
			if err == nil {
				err = errNoAnswer
			}
			answers = append(answers, siteAnswer{address: address, err: err, silent: true})
		}
	}
	return answers
}

// take takes over an answer: its session is kept, or ended.
func (q *siteSessions) take(a siteAnswer, keep bool) {
	if a.silent {
		return
	}
	delete(q.asked, a.address)
	if a.err != nil {
		q.failed[a.address] = siteFailure{err: a.err, at: time.Now()}
		return
	}
	delete(q.failed, a.address)
	q.close(a.address)
	q.open[a.address] = a.session
	if !keep {
		q.close(a.address)
	}
}

// close ends the session with a server, if there is one.
func (q *siteSessions) close(address string) {
	if session := q.open[address]; session != nil {
		delete(q.open, address)
		q.tasks.Go(func() { closeSession(session) }) // a server that is gone takes its time
	}
}

// closeBut ends all sessions but the one.
func (q *siteSessions) closeBut(address string) {
	for a := range q.open {
		if a != address {
			q.close(a)
		}
	}
}

func (q *siteSessions) closeAll() { q.closeBut("") }

// end ends all sessions, when the context of the questions is done.
func (q *siteSessions) end() {
	q.closeAll()
	q.tasks.Wait()
}

// closeSession ends a session, if there is one. The server ends it either way.
func closeSession(session siteSession) {
	if session == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = session.Close(ctx) // see above
}
