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
	// Lag is what the leader of this cluster lacks of it, in bytes; nil: not known, or this
	// cluster takes writes.
	Lag     *uint64 `json:"lag_bytes"`
	Problem string  `json:"problem,omitempty"`
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
		Position: src.Position, Problem: src.Problem}
	if r, known := f.reportOf(rec.Leader); s.Follows && known && src.Position.Known() && r.Position.Known() {
		lag := uint64(0)
		if src.Position.LSN > r.Position.LSN {
			lag = uint64(src.Position.LSN - r.Position.LSN)
		}
		s.Lag = &lag
	}
	return s
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
