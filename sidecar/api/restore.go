package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
)

// RestoreRequest asks for a restore of the cluster in place.
type RestoreRequest struct {
	// Kind and Value are a target as backup.ParseTarget reads it; an empty kind: the
	// latest.
	Kind      backup.TargetKind `json:"target,omitempty"`
	Value     string            `json:"value,omitempty"`
	Exclusive bool              `json:"exclusive,omitempty"` // to just before it
	Label     string            `json:"label,omitempty"`     // of the backup to begin with; empty: the newest that fits
}

// RestorePlan is what a restore would do.
type RestorePlan struct {
	backup.Plan
	Member string `json:"member"` // that would restore
	// Latest is until when log is archived.
	Latest time.Time `json:"latest,omitzero"`
}

// RestoreStatus is a restore in place that is under way.
type RestoreStatus struct {
	ID     string `json:"id"`
	Member string `json:"member"` // that restores
	Words  string `json:"target"` // for people
	Backup string `json:"backup"` // the label
}

// restoring is the restore that is under way; nil: there is none.
func (f facts) restoring() *RestoreStatus {
	r := &f.Observation.Consul.Record
	if r.Restore.ID == "" {
		return nil
	}
	return &RestoreStatus{ID: r.Restore.ID, Member: r.Leader, Words: r.Restore.Words, Backup: r.Restore.Backup}
}

// restoreTable is the changes of restores, by path and method.
func (s *Server) restoreTable() map[string]map[string]change {
	with := func(do func(ctx context.Context, r RestoreRequest) (string, error)) func(context.Context, []byte) (int, string, error) {
		return func(ctx context.Context, body []byte) (int, string, error) {
			var r RestoreRequest
			if len(body) > 0 {
				if err := decode(body, &r); err != nil {
					return 0, "", err
				}
			}
			if s.backups.of == nil {
				return 0, "", Refuse(notPossible, noBackups)
			}
			text, err := do(ctx, r)
			return http.StatusOK, text, err
		}
	}
	plan := with(func(ctx context.Context, r RestoreRequest) (string, error) {
		p, err := s.backups.of.PlanRestore(ctx, r)
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(p)
		return string(text), err
	})
	begin := with(func(ctx context.Context, r RestoreRequest) (string, error) { return s.backups.of.Restore(ctx, r) })
	giveUp := with(func(ctx context.Context, _ RestoreRequest) (string, error) { return s.backups.of.GiveUpRestore(ctx) })
	return map[string]map[string]change{
		"/restore": {
			http.MethodPost:   {"restore", false, backupWait, begin},
			http.MethodDelete: {"give up restore", false, shortWait, giveUp},
		},
		"/restore/plan": {http.MethodPost: {"plan restore", false, backupWait, plan}},
	}
}
