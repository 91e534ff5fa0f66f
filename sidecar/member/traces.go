package member

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/trace"
)

// runWatchers starts those that tell others what becomes of this member.
func (m *Member) runWatchers(ctx context.Context, all *errgroup.Group) {
	for _, watch := range []func(context.Context){m.keepRecords, m.keepHooks, m.keepOutages, m.keepReads, m.keepTraces, m.traces.Run} {
		all.Go(func() error { watch(ctx); return nil })
	}
}

// newTraces makes what exports spans; nil: the configuration names no collector.
func newTraces(m *Member) (*trace.Exporter, error) {
	t := m.config.Trace
	o := trace.Options{Endpoint: t.Endpoint, Timeout: t.Timeout, Cluster: m.config.Cluster, Member: m.config.Member, Version: m.version, Logger: m.log.Named("trace")}
	if t.Endpoint != "" && t.TokenFile != "" {
		token, err := config.ReadSecretFile(t.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("trace.token_file: %w", err)
		}
		o.Headers = map[string]string{"Authorization": "Bearer " + token}
	}
	return trace.New(o), nil
}

// keepTraces exports what becomes of each term, as this member saw it, until ctx ends.
func (m *Member) keepTraces(ctx context.Context) {
	if m.traces == nil {
		return
	}
	w := termTraces{member: m.config.Member}
	for {
		last := m.sidecar.Snapshot()
		m.traces.Offer(w.spans(last, m, time.Now())...)
		if _, err := m.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool { return s != last }); err != nil {
			return
		}
	}
}

// termTraces is what of terms was exported.
type termTraces struct {
	member  string
	witness trace.Witness
	term    uint64 // the newest that this member led, or that had begun before this process
	begun   bool
}

func (w *termTraces) spans(s *sidecar.Snapshot, m *Member, now time.Time) []trace.Span {
	if s == nil {
		return nil
	}
	r := &s.Observation.Consul.Record
	spans := w.witness.Look(trace.Seen{Member: w.member, Record: r, Report: &s.Report, Server: &s.Observation.Server}, now)
	term := m.lastTerm()
	switch {
	case !w.begun && r.Exists():
		w.begun, w.term = true, r.Term
	case w.begun && term != nil && term.Term > w.term:
		w.term = term.Term
		if term.Leader == w.member {
			spans = append(spans, trace.Term(r.SystemID, term)...)
		}
	}
	return spans
}

// traceBackup exports a backup that this member made.
func (m *Member) traceBackup(run *api.BackupRun, made backup.Backup, ended time.Time, err error) {
	if m.traces == nil {
		return
	}
	snap := m.sidecar.Snapshot()
	b := trace.Backup{System: snap.Observation.Consul.Record.SystemID, Name: run.Backup, Kind: string(run.Kind), Member: run.Member, Label: made.Label,
		Began: run.Began, Made: ended, Ended: time.Now()}
	if err != nil {
		b.Error = err.Error()
	}
	m.traces.Offer(b.Spans()...)
}

// traceAsk exports that this member, the leader, had another begin a backup. When that
// one began it, which the trace is derived from, is in the key that it holds.
func (m *Member) traceAsk(ctx context.Context, asked time.Time) {
	if m.traces == nil {
		return
	}
	answered := time.Now()
	value, err := m.cluster.Held(ctx, backupKey)
	var run api.BackupRun
	if err != nil || json.Unmarshal(value, &run) != nil || run.Began.IsZero() {
		return // it has ended already, and is traced without this
	}
	snap := m.sidecar.Snapshot()
	b := trace.Backup{System: snap.Observation.Consul.Record.SystemID, Name: run.Backup, Began: run.Began}
	m.traces.Offer(b.Asked(m.config.Member, asked, answered))
}
