package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The statuses of answers, in short.
const (
	badRequest    = http.StatusBadRequest
	notPossible   = http.StatusPreconditionFailed
	unprocessable = http.StatusUnprocessableEntity
	unavailable   = http.StatusServiceUnavailable
)

// change is one thing that may be requested.
type change struct {
	name string
	body bool // a body is required
	wait time.Duration
	// do returns the status and text of the answer.
	do func(ctx context.Context, body []byte) (status int, text string, err error)
}

// How long clients wait for an answer.
const (
	shortWait   = 15 * time.Second
	handoffWait = time.Minute
	restartWait = 10 * time.Minute // a shutdown checkpoint may be long
)

// changeTable is all changes by path and method.
func (s *Server) changeTable() map[string]map[string]change {
	config := func(replace bool) func(context.Context, []byte) (int, string, error) {
		return func(ctx context.Context, body []byte) (int, string, error) { return s.changeConfig(ctx, body, replace) }
	}
	return map[string]map[string]change{
		"/switchover": {
			http.MethodPost:   {"switchover", true, handoffWait, s.switchover},
			http.MethodDelete: {"cancel switchover", false, shortWait, s.cancelSwitchover},
		},
		"/failover": {http.MethodPost: {"failover", true, handoffWait, s.failover}},
		"/restart": {
			http.MethodPost:   {"restart", false, restartWait, s.restart},
			http.MethodDelete: {"cancel restart", false, shortWait, s.cancelRestart},
		},
		"/reinitialize": {http.MethodPost: {"reinitialize", false, shortWait, s.reinitialize}},
		"/reload":       {http.MethodPost: {"reload", false, shortWait, s.reload}},
		"/pause":        {http.MethodPost: {"pause", false, shortWait, s.pause}},
		"/resume":       {http.MethodPost: {"resume", false, shortWait, s.resume}},
		"/remove":       {http.MethodPost: {"remove", true, shortWait, s.remove}},
		"/site/switch":  {http.MethodPost: {"switch sites", false, handoffWait, s.switchSite}},
		"/site/promote": {http.MethodPost: {"promote site", true, handoffWait, s.promoteSite}},
		"/drill": {
			http.MethodPost: {"inject fault", true, shortWait, s.injectFault},
			http.MethodPut:  {"keep drill", true, shortWait, s.keepDrill},
		},
		"/config": {
			http.MethodPatch: {"change configuration", true, shortWait, config(false)},
			http.MethodPut:   {"replace configuration", true, shortWait, config(true)},
		},
		"/config/try": {http.MethodPost: {"try configuration", true, shortWait, func(ctx context.Context, body []byte) (int, string, error) {
			return http.StatusOK, "taken", s.control.TryConfig(ctx, body)
		}}},
	}
}

// change authorises, reads and does one change, and answers it.
func (s *Server) change(w http.ResponseWriter, r *http.Request, c change) {
	by, err := s.authorize(r)
	if err != nil {
		s.refuseChange(w, r, c, err)
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		s.refuseChange(w, r, c, Refuse(unavailable, "%d changes are under way already", maxChanges))
		return
	}
	body, err := readBody(w, r, c.body)
	if err != nil {
		s.refuseChange(w, r, c, err)
		return
	}
	if s.control == nil {
		s.refuseChange(w, r, c, Refuse(unavailable, "this member takes no changes"))
		return
	}
	ctx := context.WithValue(context.WithValue(r.Context(), requesterKey{}, by), matchKey{}, r.Header.Get("If-Match"))
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	// The answer may take longer than other answers do.
	deadline := time.Now().Add(c.wait + answerTimeout)
	if err := http.NewResponseController(w).SetWriteDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		s.refuseChange(w, r, c, fmt.Errorf("set deadline: %w", err))
		return
	}
	status, text, err := c.do(ctx, body)
	if err != nil {
		s.refuseChange(w, r, c, err)
		return
	}
	s.logger.Info("change requested", "change", c.name, "remote", hostOf(r.RemoteAddr).String(), "by", by, "status", status)
	if strings.HasPrefix(text, "{") {
		s.writeRaw(w, r, status, []byte(text))
		return
	}
	writeText(w, status, text)
}

// readBody reads a JSON object. It returns a Refusal: 411, 413 or 400.
func readBody(w http.ResponseWriter, r *http.Request, required bool) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, Refuse(http.StatusRequestEntityTooLarge, "a body has at most %d bytes", maxBody)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, Refuse(http.StatusRequestEntityTooLarge, "a body has at most %d bytes", maxBody)
	case err != nil:
		return nil, Refuse(badRequest, "the body cannot be read")
	}
	body = bytes.TrimSpace(body)
	switch {
	case len(body) == 0 && required:
		return nil, Refuse(badRequest, "a body is expected")
	case len(body) > 0 && (body[0] != '{' || !json.Valid(body)):
		return nil, Refuse(badRequest, "the body is not a JSON object")
	}
	return body, nil
}

// decode reads an object that has only the fields of v. An empty body is an
// empty object.
func decode(body []byte, v any) error {
	if len(body) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return Refuse(badRequest, "the body cannot be read: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// handover is the body of switchover and failover. Member is Patroni's old
// name of Candidate.
type handover struct {
	Leader         string `json:"leader"`
	Candidate      string `json:"candidate"`
	Member         string `json:"member"`
	ScheduledAt    string `json:"scheduled_at"`
	AcceptDataLoss bool   `json:"accept_data_loss"`
	// Drain ends transactions that are open after it ("5s"); Until is how long a planned
	// switchover is tried. Both are ours, not Patroni's.
	Drain string `json:"drain"`
	Until string `json:"until"`
}

// maxDrain bounds Drain: clients are held for as long.
const maxDrain = 30 * time.Second

// window reads what a switchover may take.
func (h handover) window(req *Switchover) (err error) {
	if h.Drain != "" {
		if req.Drain, err = time.ParseDuration(h.Drain); err != nil || req.Drain <= 0 || req.Drain > maxDrain {
			return Refuse(badRequest, "drain %q: expected a duration up to %s, such as 5s; clients wait for that long", h.Drain, maxDrain)
		}
	}
	if h.Until == "" {
		return nil
	}
	if h.ScheduledAt == "" {
		return Refuse(badRequest, "until is for a planned switchover; expected scheduled_at too")
	}
	if req.Until, err = parseSchedule(h.Until, "switchover"); err == nil && !req.Until.After(req.At) {
		err = Refuse(badRequest, "until %s is not after scheduled_at", h.Until)
	}
	return err
}

func (s *Server) switchover(ctx context.Context, body []byte) (int, string, error) {
	var h handover
	if err := decode(body, &h); err != nil {
		return 0, "", err
	}
	return s.handOver(ctx, h)
}

func (s *Server) failover(ctx context.Context, body []byte) (int, string, error) {
	var h handover
	unread := decode(body, &h)
	candidate := cmp.Or(h.Candidate, h.Member)
	switch {
	case candidate == "":
		return 0, "", Refuse(badRequest, "Failover could be performed only to a specific candidate")
	case unread != nil:
		return 0, "", unread
	case h.ScheduledAt != "":
		return 0, "", Refuse(badRequest, "Failover can't be scheduled")
	case h.Leader != "":
		return s.handOver(ctx, h) // as Patroni: a switchover
	}
	if err := s.possible("", candidate); err != nil {
		return 0, "", err
	}
	leader, err := s.control.Failover(ctx, Failover{Candidate: candidate, AcceptDataLoss: h.AcceptDataLoss})
	return handedOver("fail", leader, candidate, err)
}

func (s *Server) handOver(ctx context.Context, h handover) (int, string, error) {
	req := Switchover{Leader: h.Leader, Candidate: cmp.Or(h.Candidate, h.Member)}
	f, known := s.facts()
	switch {
	case req.Leader == "":
		return 0, "", Refuse(badRequest, "Switchover could be performed only from a specific leader")
	case h.AcceptDataLoss:
		return 0, "", Refuse(badRequest, "A switchover never loses data: accept_data_loss is for a failover")
	case h.ScheduledAt != "" && known && f.paused():
		return 0, "", Refuse(badRequest, "Can't schedule switchover in the paused state")
	case req.Candidate == "" && known && f.paused():
		return 0, "", Refuse(badRequest, "Switchover is possible only to a specific candidate in a paused state")
	case req.Leader == req.Candidate:
		return 0, "", Refuse(badRequest, "Switchover target and source are the same")
	}
	if h.ScheduledAt != "" {
		var err error
		if req.At, err = parseSchedule(h.ScheduledAt, "switchover"); err != nil {
			return 0, "", err
		}
	} else if err := s.possible(req.Leader, req.Candidate); err != nil {
		return 0, "", err
	}
	if err := h.window(&req); err != nil {
		return 0, "", err
	}
	leader, err := s.control.Switchover(ctx, req)
	if err == nil && !req.At.IsZero() {
		return http.StatusAccepted, "Switchover scheduled", nil
	}
	return handedOver("switch", leader, req.Candidate, err)
}

// possible checks what the view can tell; it returns a Refusal with 412.
func (s *Server) possible(leader, candidate string) error {
	f, known := s.facts()
	if !known {
		return Refuse(unavailable, "nothing is decided yet")
	}
	if leader != "" && leader != f.leader() {
		return Refuse(notPossible, "leader name does not match")
	}
	if candidate == "" {
		if len(f.Observation.Peers) == 0 {
			return Refuse(notPossible, "switchover is not possible: cluster does not have members except leader")
		}
		return nil
	}
	for _, name := range f.members() {
		if name == candidate {
			return nil
		}
	}
	return Refuse(notPossible, "candidate does not exists") // Patroni's words
}

// handedOver is Patroni's text for the end of a handover; verb is switch or fail.
func handedOver(verb, leader, candidate string, err error) (int, string, error) {
	var refusal *Refusal
	what := strings.ToUpper(verb[:1]) + verb[1:]
	switch {
	case errors.As(err, &refusal):
		return 0, "", err
	case errors.Is(err, context.DeadlineExceeded):
		return 0, "", Refuse(unavailable, "%sover status unknown", what)
	case err != nil:
		return 0, "", Refuse(unavailable, "%sover failed: %s", what, err)
	case candidate != "" && leader != candidate:
		return http.StatusOK, fmt.Sprintf("%sed over to %q%s", what, leader, InsteadOf(candidate)), nil
	}
	return http.StatusOK, fmt.Sprintf("Successfully %sed over to %q", verb, leader), nil
}

// InsteadOf is how the answer to a handover ends whose candidate does not lead.
func InsteadOf(candidate string) string { return fmt.Sprintf(" instead of %q", candidate) }

func (s *Server) cancelSwitchover(ctx context.Context, _ []byte) (int, string, error) {
	return http.StatusOK, "scheduled switchover deleted", s.control.CancelSwitchover(ctx)
}

func (s *Server) cancelRestart(ctx context.Context, _ []byte) (int, string, error) {
	return http.StatusOK, "scheduled restart deleted", s.control.CancelRestart(ctx)
}

func (s *Server) reinitialize(ctx context.Context, body []byte) (int, string, error) {
	var b struct {
		Force      any    `json:"force"`
		FromLeader any    `json:"from_leader"`
		Dashed     any    `json:"from-leader"` // as Patroni's documentation writes it
		From       string `json:"from"`
	}
	if err := decode(body, &b); err != nil {
		return 0, "", err
	}
	req := Reinitialize{From: b.From}
	var err error
	if req.Force, err = truth("force", b.Force); err != nil {
		return 0, "", err
	}
	if req.FromLeader, err = truth("from_leader", cmp.Or(b.FromLeader, b.Dashed)); err != nil {
		return 0, "", err
	}
	if f, known := s.facts(); known && f.leader() == f.self() {
		return 0, "", Refuse(unavailable, "I am the leader, can not reinitialize")
	}
	return http.StatusOK, "reinitialize started", s.control.Reinitialize(ctx, req)
}

func (s *Server) reload(ctx context.Context, _ []byte) (int, string, error) {
	return http.StatusAccepted, "reload scheduled", s.control.Reload(ctx)
}

func (s *Server) pause(ctx context.Context, body []byte) (int, string, error) {
	var b struct {
		For     any      `json:"for"`
		Members []string `json:"members"`
		Reason  string   `json:"reason"`
	}
	if err := decode(body, &b); err != nil {
		return 0, "", err
	}
	req := Pause{Members: b.Members, Reason: b.Reason}
	if b.For != nil {
		var err error
		if req.For, err = parseTimeout(b.For); err != nil {
			return 0, "", Refuse(badRequest, "for: a time like \"30m\", or a number of seconds, is expected")
		}
	}
	return http.StatusOK, "paused", s.control.Pause(ctx, req)
}

func (s *Server) resume(ctx context.Context, body []byte) (int, string, error) {
	var b struct {
		Members []string `json:"members"`
	}
	if err := decode(body, &b); err != nil {
		return 0, "", err
	}
	answer := "resumed" + s.pauseKept(b.Members)
	return http.StatusOK, answer, s.control.Resume(ctx, Resume{b.Members})
}

// pauseKept says what the pause has kept from happening on members, all of them if none is
// named: it happens now.
func (s *Server) pauseKept(members []string) string {
	f, known := s.facts()
	if !known {
		return ""
	}
	var b strings.Builder
	for _, name := range f.members() {
		r, heard := f.reportOf(name)
		if heard && r.Override == "pgsidecar resume" && (len(members) == 0 || slices.Contains(members, name)) {
			fmt.Fprintf(&b, "\n%s: %s; from now on: %s", name, r.Blocked, r.Cost)
		}
	}
	return b.String()
}

func (s *Server) remove(ctx context.Context, body []byte) (int, string, error) {
	var b struct {
		Member string `json:"member"`
	}
	if err := decode(body, &b); err != nil {
		return 0, "", err
	}
	if b.Member == "" {
		return 0, "", Refuse(badRequest, "say which member is to be removed")
	}
	return http.StatusOK, b.Member + " is removed", s.control.Remove(ctx, b.Member)
}

func (s *Server) changeConfig(ctx context.Context, body []byte, replace bool) (int, string, error) {
	if !replace && bytes.Equal(bytes.Trim(body, "{} \t\r\n"), nil) {
		return 0, "", Refuse(badRequest, "nothing is to be changed: the object is empty")
	}
	change := ConfigChange{Patch: body, Replace: replace}
	if match, _ := ctx.Value(matchKey{}).(string); match != "" && match != "*" {
		version, err := strconv.ParseUint(strings.Trim(match, `"`), 10, 64)
		if err != nil || version == 0 {
			return 0, "", Refuse(notPossible, "If-Match: %s is no version of the settings; GET /config names it as ETag", match)
		}
		change.Version = version
	}
	stored, err := s.control.PatchConfig(ctx, change)
	return http.StatusOK, string(configOf(stored)), err
}

// matchKey is the key of the header If-Match in a change's context.
type matchKey struct{}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the client may be gone
}
