package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates"
)

// recallAfter is how long after its start the follower waits for Consul before files
// that are missing are written of what was known before.
const recallAfter = 3 * time.Second

// topologyCache is what the last topology was made of, on disk beside the first template's
// file. It outlives this process for two uses: a member that is away when the process
// starts again stays in static configuration; and a file that is missing while Consul
// is away, as after a start of the machine, is written all the same. Nobody is routed
// by it.
type topologyCache struct {
	path  string // empty: there are no files
	saved []byte
}

func newTopologyCache(cfg *config.Config) topologyCache {
	if len(cfg.Templates) == 0 {
		return topologyCache{}
	}
	first := cfg.Templates[0].Destination
	return topologyCache{path: filepath.Join(filepath.Dir(first), "."+filepath.Base(first)+".pgsidecar-known")}
}

// cachedTopology is the file's content.
type cachedTopology struct {
	Cluster string                   `json:"cluster"`
	Service string                   `json:"service"`
	Record  ha.Record                `json:"record"`
	Members []templates.Registration `json:"members"`
	// RoundTrip is Topology's.
	RoundTrip time.Duration `json:"round_trip,omitempty"`
}

// load returns the stored topology; false if there is none of this cluster.
func (k *topologyCache) load(cfg *config.Config) (templates.Topology, bool, error) {
	if k.path == "" {
		return templates.Topology{}, false, nil
	}
	var was cachedTopology
	b, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return templates.Topology{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &was)
	}
	if err != nil {
		return templates.Topology{}, false, fmt.Errorf("read what was known before: %w", err)
	}
	if was.Cluster != cfg.Cluster || was.Service != cfg.Service.Name || was.Record.Term == 0 {
		return templates.Topology{}, false, nil
	}
	k.saved = b
	// It checks all text as if it came from Consul.
	t, err := templates.Build(templates.Source{Cluster: was.Cluster, Service: was.Service, Record: was.Record, Registered: was.Members})
	if err != nil {
		return t, false, fmt.Errorf("read what was known before: %w", err)
	}
	t.RoundTrip = max(0, min(was.RoundTrip, farAway))
	return t, true, nil
}

// save keeps what the newest topology was made of. It is not synced: what a crash of
// the machine leaves of it is read as nothing.
func (k *topologyCache) save(record ha.Record, t templates.Topology) error {
	if k.path == "" {
		return nil
	}
	now := cachedTopology{Cluster: t.Cluster, Service: t.Service, Record: record, RoundTrip: t.RoundTrip}
	for _, m := range t.Members {
		now.Members = append(now.Members, templates.Registration{Name: m.Name, Postgres: m.Address(), API: m.API(), Tags: m.Tags, Status: m.Status, Meta: m.Meta})
	}
	b, err := json.Marshal(now)
	if err != nil || bytes.Equal(b, k.saved) {
		return err
	}
	fresh := k.path + "-new"
	if err := os.WriteFile(fresh, b, 0o600); err != nil {
		return fmt.Errorf("keep what is known: %w", err)
	}
	if err := os.Rename(fresh, k.path); err != nil {
		return fmt.Errorf("keep what is known: %w", err)
	}
	k.saved = b
	return nil
}

// loadCache takes up what was known before this process, for members that are away now.
func (f *Follower) loadCache() {
	t, found, err := f.known.load(f.config)
	if err != nil {
		f.log.Warn("what was known of the cluster before is not used", "error", err)
	}
	if found && f.away != nil {
		f.away.recall(t.RoundTrip)
	}
	if found {
		f.last, f.recalled = t, true
	}
	if found && f.far != nil {
		recall(&f.near, f.far, t)
	}
}

// rescueFiles has missing files written of what was known before.
func (f *Follower) rescueFiles() {
	if f.recalled && !f.given {
		f.log.Warn("consul is unreachable: missing files are written from the cached topology", "term", f.last.Term)
		f.Agent.Recall(f.last)
	}
}

// saveCache keeps what is known for the next process.
func (f *Follower) saveCache(record ha.Record) {
	problem := ""
	if err := f.known.save(record, f.last); err != nil {
		problem = err.Error()
	}
	if problem != "" && problem != f.unsaved {
		f.log.Warn("what is known of the cluster is not kept for the next start", "error", problem)
	}
	f.unsaved = problem
}
