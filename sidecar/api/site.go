package api

import (
	"context"
	"net/http"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// SiteStatus is the other site's cluster, as the answering member knows it.
type SiteStatus struct {
	Name string `json:"name"`
	// Follows: this cluster follows the other one; else it takes writes itself.
	Follows bool   `json:"follows"`
	Epoch   uint64 `json:"epoch"` // how often a site took the writes in the place of the other, as this one knows
	// Primary is the other's, host:port; empty: none is known. Heard is how long ago it
	// answered, in seconds; -1: never.
	Primary  string      `json:"primary,omitempty"`
	Heard    float64     `json:"heard_seconds_ago"`
	Position ha.Position `json:"position"`
	// Answered is how long ago any server of it answered, in seconds; -1: never.
	Answered float64 `json:"answered_seconds_ago"`
	// Streams: the leader of the site that follows receives the log, as this cluster's leader
	// sees it. Behind is what it has not flushed of that, in bytes, as the primary that sends
	// it sees; nil: not known, or this cluster follows.
	Streams bool    `json:"streams"`
	Behind  *uint64 `json:"behind_bytes,omitempty"`
	// Lag is what the leader of this cluster lacks of it, in bytes; nil: not known, or this
	// cluster takes writes.
	Lag *uint64 `json:"lag_bytes"`
	// LagSeconds is the age of the newest commit that the answering member has, where it
	// leads a cluster that follows and lacks log; 0: it lacks none. Nil: not known.
	LagSeconds *float64 `json:"lag_seconds,omitempty"`
	Problem    string   `json:"problem,omitempty"`
	// BothWrite: both sites are seen to take writes. WhyNot is why the sites cannot be
	// changed now, as far as this member knows; empty: nothing is known that speaks against it.
	BothWrite bool   `json:"both_write,omitempty"`
	WhyNot    string `json:"why_not,omitempty"`
	// Witness is the third Consul that both sites name; empty: none. WitnessHeld is how long
	// ago it last confirmed that this site may take writes, in seconds; -1: never.
	Witness        string  `json:"witness,omitempty"`
	WitnessHeld    float64 `json:"witness_held_seconds_ago,omitempty"`
	WitnessProblem string  `json:"witness_problem,omitempty"`
}

// site is the other site's cluster; nil: there is none.
func (f facts) site() *SiteStatus {
	o := &f.Observation
	rec := &o.Consul.Record
	name := rec.StandbyOf
	if name == "" {
		name = o.Policy.StandbyOf
	}
	if name == "" {
		return nil
	}
	src := &o.Source
	s := &SiteStatus{Name: name, Follows: rec.StandbyOf != "", Epoch: rec.Epoch, Primary: src.Address, Heard: f.age(src.SeenAt),
		Position: src.Position, Answered: f.age(src.HeardAt), Problem: src.Problem}
	r, known := f.reportOf(rec.Leader)
	if s.Streams = s.Follows && known && r.Streaming; !s.Follows {
		s.Streams, s.Behind = f.sending()
	}
	if s.Follows && known && src.Position.Known() && r.Position.Known() {
		lag := uint64(0)
		if src.Position.LSN > r.Position.LSN {
			lag = uint64(src.Position.LSN - r.Position.LSN)
		}
		s.Lag = &lag
	}
	s.Epoch = max(s.Epoch, ha.EpochOf(src.Position.TLI))
	s.BothWrite = !s.Follows && src.Address != "" && src.Problem == "" && src.SystemID == rec.SystemID && f.age(src.SeenAt) >= 0 && f.age(src.SeenAt) < lateSite
	if s.Witness = o.Policy.Witness; s.Witness != "" {
		s.WitnessHeld, s.WitnessProblem = f.age(src.Witness.HeldAt), src.Witness.Problem
	}
	s.LagSeconds, s.WhyNot = f.siteLag(s), f.whyNot(s)
	return s
}

// sending is whether this server sends its log to the other site, and what is not flushed
// there.
func (f facts) sending() (streams bool, behind *uint64) {
	server := &f.Observation.Server
	for i := range server.Walsenders {
		w := &server.Walsenders[i]
		if !ha.OfOtherSite(w.Member) || !w.Streaming {
			continue
		}
		lacks := uint64(0)
		if server.Position.LSN > w.Flush {
			lacks = uint64(server.Position.LSN - w.Flush)
		}
		if behind == nil || lacks < *behind {
			streams, behind = true, &lacks
		}
	}
	return streams, behind
}

// siteLag is how old the newest commit is that this member has of the site that it follows.
func (f facts) siteLag(s *SiteStatus) *float64 {
	switch {
	case s.Lag == nil || f.leader() != f.self():
		return nil
	case *s.Lag == 0:
		return new(0.0)
	case f.ReplayedAt.IsZero():
		return nil
	}
	return new(max(0, time.Since(f.ReplayedAt).Seconds()))
}

func (s *Server) switchSite(ctx context.Context, body []byte) (int, string, error) {
	var req struct {
		Drain string `json:"drain"`
	}
	if err := decode(body, &req); err != nil {
		return 0, "", err
	}
	var h Switchover
	if err := (handover{Drain: req.Drain}).window(&h); err != nil {
		return 0, "", err
	}
	text, err := s.control.SwitchSite(ctx, h.Drain)
	return http.StatusOK, text, err
}

// SitePromotion is the body of /site/promote.
type SitePromotion struct {
	Final          *ha.Position `json:"final,omitempty"`
	AcceptDataLoss bool         `json:"accept_data_loss,omitempty"`
	Check          bool         `json:"check,omitempty"`
}

func (s *Server) promoteSite(ctx context.Context, body []byte) (int, string, error) {
	var req SitePromotion
	if err := decode(body, &req); err != nil {
		return 0, "", err
	}
	if req.Final == nil && !req.AcceptDataLoss && !req.Check {
		return 0, "", Refuse(badRequest, "what the other site has beyond this one would be lost: expected accept_data_loss; for a planned change, ask for it at the other site")
	}
	text, err := s.control.PromoteSite(ctx, PromoteSite(req))
	return http.StatusOK, text, err
}

// SiteWait is how long a change of sites may take, as long as the API lets a client wait.
const SiteWait = handoffWait - 5*time.Second
