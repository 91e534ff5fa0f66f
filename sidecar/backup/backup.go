package backup

import (
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Kind is how much of the server a backup holds by itself.
type Kind string

// The kinds of backup.
const (
	Full         Kind = "full"
	Differential Kind = "diff"    // what changed since the last full one
	Incremental  Kind = "incr"    // what changed since the last one of any kind
	Logical      Kind = "logical" // rows, by pg_dump; nothing is recovered from it to a moment
)

// Backup is one finished backup.
type Backup struct {
	Label string `json:"label"` // by which its engine knows it
	Kind  Kind   `json:"kind"`
	// Prior is the backup that this one needs besides its own files; empty for a
	// full one.
	Prior string `json:"prior,omitempty"`

	Start    time.Time `json:"start"`
	Stop     time.Time `json:"stop"` // zero: the engine does not say
	StartLSN ha.LSN    `json:"start_lsn"`
	StopLSN  ha.LSN    `json:"stop_lsn"` // from here on the server is consistent; zero: unknown
	Timeline ha.TLI    `json:"timeline"` // at StartLSN

	SystemID string `json:"system_id,omitempty"` // pg_control's, decimal; empty: unknown
	Version  int    `json:"version,omitempty"`   // PostgreSQL's major version; 0: unknown

	Size   int64 `json:"size"`   // bytes of the data that it restores
	Stored int64 `json:"stored"` // bytes that its own files take in the repository; 0: unknown

	// Damaged says that pages failed their checksums while it was made. Such a
	// backup is listed and never chosen.
	Damaged bool `json:"damaged,omitempty"`
}

// Good reports whether a recovery may begin with the backup.
func (b Backup) Good() bool { return !b.Damaged && !b.Stop.IsZero() }

// Repository is what an engine has of one cluster, oldest backup first.
type Repository struct {
	Backups  []Backup `json:"backups"`
	SystemID string   `json:"system_id,omitempty"` // of the newest backup, or of the stanza; empty: unknown
	// Free is how many bytes the repository can still take; negative: unknown.
	Free int64 `json:"free"`
	// Running says that the engine is making a backup on this machine.
	Running bool `json:"running,omitempty"`
}

// Newest returns the last good backup.
func (r Repository) Newest() (Backup, bool) {
	for _, b := range slices.Backward(r.Backups) {
		if b.Good() {
			return b, true
		}
	}
	return Backup{}, false
}

// Find returns the backup with a label.
func (r Repository) Find(label string) (Backup, bool) {
	i := slices.IndexFunc(r.Backups, func(b Backup) bool { return b.Label == label })
	if i < 0 {
		return Backup{}, false
	}
	return r.Backups[i], true
}

// Segment is one file of log in an archive.
type Segment struct {
	Name string    // 24 hexadecimal digits, as PostgreSQL names it
	At   time.Time // when it arrived; zero: unknown
}

// Archive is the write-ahead log that an engine has stored.
type Archive struct {
	SegmentSize int64 // bytes; a power of two from 1 MiB to 1 GiB
	Segments    []Segment
	// Histories has the content of each history file: where its timeline came from.
	Histories map[ha.TLI][]ha.Fork
}
