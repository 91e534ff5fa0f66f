package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// The faults that a member injects into itself.
const (
	FaultPostgresKilled = "postgres-killed" // its postmaster is killed with SIGKILL
	FaultSidecarStopped = "sidecar-stopped" // its sidecar is stopped (SIGSTOP), and goes on after a time
)

// MaxStop is the longest that a sidecar may be stopped for.
const MaxStop = time.Minute

// Drills is what a member does for drills of the cluster that it serves. An
// error may be a Refusal.
type Drills interface {
	// LastDrill returns what is kept of the last drill; nil: there was none.
	LastDrill(ctx context.Context) (json.RawMessage, error)
	// KeepDrill keeps the last drill.
	KeepDrill(ctx context.Context, last json.RawMessage) error
	// Inject injects a fault into this member, which must allow it. The answer
	// is sent before a sidecar stops.
	Inject(ctx context.Context, f Fault) error
}

// Fault is what a member is asked to do to itself.
type Fault struct {
	Name string
	For  time.Duration // FaultSidecarStopped: how long
}

// injectFault is POST /drill: {"fault": "sidecar-stopped", "seconds": 10}.
func (s *Server) injectFault(ctx context.Context, body []byte) (int, string, error) {
	var asked struct {
		Fault   string  `json:"fault"`
		Seconds float64 `json:"seconds"`
	}
	if err := decode(body, &asked); err != nil {
		return 0, "", err
	}
	f := Fault{Name: asked.Fault, For: time.Duration(asked.Seconds * float64(time.Second))}
	switch {
	case f.Name != FaultPostgresKilled && f.Name != FaultSidecarStopped:
		return 0, "", Refuse(badRequest, "no fault %q; there are %s and %s", f.Name, FaultPostgresKilled, FaultSidecarStopped)
	case f.Name == FaultSidecarStopped && (f.For < time.Second || f.For > MaxStop):
		return 0, "", Refuse(badRequest, "seconds: expected 1 to %.0f", MaxStop.Seconds())
	case s.drills == nil:
		return 0, "", Refuse(unavailable, "this member takes part in no drills")
	}
	if err := s.drills.Inject(ctx, f); err != nil {
		return 0, "", err
	}
	return http.StatusOK, "done: " + f.Name, nil
}

// keepDrill is PUT /drill.
func (s *Server) keepDrill(ctx context.Context, body []byte) (int, string, error) {
	if s.drills == nil {
		return 0, "", Refuse(unavailable, "this member takes part in no drills")
	}
	if err := s.drills.KeepDrill(ctx, body); err != nil {
		return 0, "", err
	}
	return http.StatusOK, "kept", nil
}

// drillAge is how long the last drill is told from memory: to everyone who asks, and
// anybody may, Consul is asked at most this often.
const drillAge = 2 * time.Second

// drillMemory is what was last read of the last drill.
type drillMemory struct {
	mu   sync.Mutex
	read time.Time
	last json.RawMessage
	err  error
}

// get returns what was read within drillAge, or reads anew.
func (m *drillMemory) get(ctx context.Context, d Drills) (json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.read) > drillAge {
		m.last, m.err = d.LastDrill(ctx)
		m.read = time.Now()
	}
	return m.last, m.err
}

// lastDrill is GET /drill. It asks Consul, which nothing else that is only read
// does.
func (s *Server) lastDrill(w http.ResponseWriter, r *http.Request) {
	if s.drills == nil {
		http.NotFound(w, r)
		return
	}
	// Not the request's context: others wait for the same answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), answerTimeout/2)
	defer cancel()
	last, err := s.drillMemory.get(ctx, s.drills)
	switch {
	case err != nil:
		s.logger.Debug("the last drill cannot be read", "error", err)
		http.Error(w, "Consul does not say what the last drill was", http.StatusServiceUnavailable)
	case last == nil:
		http.Error(w, "no drill has been done", http.StatusNotFound)
	default:
		s.writeRaw(w, r, http.StatusOK, last)
	}
}
