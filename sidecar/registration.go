package sidecar

import (
	"context"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// registration is what Consul's service registration says of this member, and the
// one change of it that may be under way.
type registration struct {
	mu         sync.Mutex // guards what follows
	announced  ha.Announced
	announcing bool
	failedAt   ha.Instant // the last change failed then; zero: it did not
	// changes grows when the registration is to say something else than the role:
	// one that was being made then may lack that.
	changes uint64
	ready   bool // this member has had a role

	tagged settings.TagSettings // the loop's own: those of the cluster's settings that the registration has
}

// announcePause is how long after a failed change the next is made, lest it is
// tried with every event.
const announcePause = 100 * time.Millisecond

// begin reports whether a change may begin now, and what end is to be told of it.
func (r *registration) begin(now ha.Instant) (changes uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.announcing || r.failedAt != 0 && r.failedAt.Within(announcePause, now) {
		return 0, false
	}
	r.announcing = true
	return r.changes, true
}

// done takes over a change that succeeded.
func (r *registration) done(a ha.Action, changes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.announcing, r.failedAt = false, 0
	r.announced = ha.Announced{Known: r.changes == changes, Tag: a.Tag, Term: a.Term}
}

// failed takes over a change that failed, and reports whether it is the first in a
// row. The cluster may yet make it, by itself, when it can: what the registration
// says is not known.
func (r *registration) failed(now ha.Instant) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first = r.failedAt == 0
	r.announcing, r.failedAt, r.announced.Known = false, now, false
	return first
}

// renew has the registration made again.
func (r *registration) renew() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.announced.Known = false
	r.changes++
}

// takeTags has the registration made again when the cluster's settings of this
// member's tags have changed: it tells them. The loop calls it.
func (r *registration) takeTags(now settings.TagSettings) {
	if reflect.DeepEqual(now, r.tagged) {
		return
	}
	r.tagged = now
	r.renew()
}

func (r *registration) now() ha.Announced {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.announced
}

// firstRole reports, once, that this member has a role.
func (r *registration) firstRole() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := !r.ready && r.announced.Known && r.announced.Tag != ""
	r.ready = r.ready || first
	return first
}

// announce makes the service registration follow the role. A primary is
// announced only after its predecessors' tags are gone.
func (s *Sidecar) announce(run context.Context, a ha.Action) {
	changes, ok := s.registration.begin(s.opts.Now())
	if !ok {
		return
	}
	s.opts.Recorder.Rule(a.Rule)
	s.start(run, announceTimeout, func(ctx context.Context) {
		var err error
		if a.Tag == "primary" {
			err = s.opts.Cluster.Evict(ctx, a.Evict)
		}
		if err == nil {
			err = s.opts.Cluster.Register(ctx, s.registrationFor(a))
		}
		if err != nil {
			if s.registration.failed(s.opts.Now()) {
				s.log.Warn("cannot announce the role; tried again", "tag", a.Tag, "error", err)
			}
			return // with the next decision, a second later at most
		}
		s.registration.done(a, changes)
		s.log.Info("announced", "tag", a.Tag, "term", a.Term)
		s.notify()
		if a.Tag == "primary" {
			s.failover.stamp(a.Term, s.moment(), func(r *failover.Record, now time.Time) { r.Announced = now })
			s.start(run, routedTimeout+historyTimeout, func(ctx context.Context) { s.storeFailover(ctx, a.Term) })
		}
	})
}

// registrationFor is what the service says for an announcement.
func (s *Sidecar) registrationFor(a ha.Action) Registration {
	r := Registration{Tag: a.Tag, Status: "passing", Text: "PostgreSQL answers"}
	switch {
	case a.Tag == "primary":
		r.Replica = Check{Status: "passing", Text: "primary"}
	case a.Tag == "standby-leader":
		r.Replica = Check{Status: "passing", Text: "leads a standby cluster"}
	case a.Tag == "replica":
		r.Replica = Check{Status: "passing", Text: "streams from its primary"}
	default:
		r.Status, r.Text = "critical", "PostgreSQL has no role yet, or is stopped"
		r.Replica = Check{Status: "critical", Text: "does not stream"}
	}
	r.Meta = [][2]string{{"term", strconv.FormatUint(a.Term, 10)}}
	if snap := s.Snapshot(); snap != nil {
		r.Meta = append(r.Meta, [2]string{"timeline", strconv.FormatUint(uint64(snap.Observation.Consul.Record.Timeline), 10)})
	}
	return r
}
