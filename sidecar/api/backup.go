package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Backups is what a member does for backups. An error may be a Refusal. An empty name
// is the only block, or the one that archives the log.
type Backups interface {
	// List returns what the repositories have.
	List(ctx context.Context) ([]BackupList, error)
	// Begin begins a backup on the member that is to make it.
	Begin(ctx context.Context, r BackupRequest) (string, error)
	// Cancel ends the backup that is being made, wherever it is.
	Cancel(ctx context.Context) (string, error)
	// Check makes the repository ready, and sees a segment of log arrive in it.
	Check(ctx context.Context, name string) (string, error)
	// Expire removes what retention does not keep.
	Expire(ctx context.Context, name string) (string, error)
	// PlanRestore says what a restore in place would do, Restore begins it, and
	// GiveUpRestore ends one that is under way: the cluster keeps the data it had.
	PlanRestore(ctx context.Context, r RestoreRequest) (RestorePlan, error)
	Restore(ctx context.Context, r RestoreRequest) (string, error)
	GiveUpRestore(ctx context.Context) (string, error)
}

// BackupRequest asks for a backup.
type BackupRequest struct {
	Backup string      `json:"backup,omitempty"`
	Kind   backup.Kind `json:"kind,omitempty"` // empty: a full one
	// Here: the member that is asked makes it itself.
	Here bool `json:"here,omitempty"`
	// Verify: the newest backup is restored to a scratch folder instead, and looked at, by
	// Member; empty: by the one that the leader chooses.
	Verify bool   `json:"verify,omitempty"`
	Member string `json:"member,omitempty"`
}

// Verification is how a proof of a backup, by restoring it, went.
type Verification struct {
	Label string    `json:"label"` // of the backup; empty: it did not get so far
	By    string    `json:"by"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// RTO is how long it took from the beginning until the restored server took writes.
	// RPO is how old the newest mark in it was at the beginning, which is what a disaster
	// then would have lost; negative: not known.
	RTO       float64 `json:"rto_seconds"`
	RPO       float64 `json:"rpo_seconds"`
	Restore   float64 `json:"restore_seconds"` // of RTO, the engine's own
	Bytes     int64   `json:"bytes"`           // that were restored
	LogBytes  int64   `json:"log_bytes"`       // that were replayed
	Tables    int     `json:"tables"`          // that pg_amcheck read
	Checksums bool    `json:"checksums"`       // each page's was compared
	Error     string  `json:"error,omitempty"` // why the backup is not proved; empty: it is
}

// Verified is what is known of the proofs of a block's backups.
type Verified struct {
	Good    *Verification `json:"good,omitempty"`    // the last that succeeded
	Failed  *Verification `json:"failed,omitempty"`  // the last try, if it failed
	Running *BackupRun    `json:"running,omitempty"` // one that is under way
	Age     float64       `json:"age_seconds"`       // of Good; -1: there is none
	Next    time.Time     `json:"next,omitzero"`
}

// BackupRun is a backup that is being made.
type BackupRun struct {
	Member string      `json:"member"`
	Backup string      `json:"backup"`
	Kind   backup.Kind `json:"kind"`
	Began  time.Time   `json:"began"`
	Done   float64     `json:"done"` // the share, 0 to 1, as far as the engine tells
}

// BackupFailure is a try that failed.
type BackupFailure struct {
	At    time.Time   `json:"at"`
	Kind  backup.Kind `json:"kind"`
	By    string      `json:"by"`
	Error string      `json:"error"`
	Tries int         `json:"tries"`
}

// BackupStatus is how a block's backups fare. Only the leader knows all of it.
type BackupStatus struct {
	Name   string `json:"name"`
	Engine string `json:"engine"`
	// Good is the last good backup; nil: there is none, or it is not known.
	Good *backup.Backup `json:"good,omitempty"`
	By   string         `json:"by,omitempty"` // the member that made it
	Age  float64        `json:"age_seconds"`  // of its end; -1: there is none
	// LogBytes is the log that was written since.
	LogBytes int64          `json:"log_bytes_since"`
	Count    int            `json:"count"`
	Next     time.Time      `json:"next,omitzero"`   // when the next is due
	Overdue  float64        `json:"overdue_seconds"` // for how long one has been due
	Running  *BackupRun     `json:"running,omitempty"`
	Failed   *BackupFailure `json:"failed,omitempty"`
	// Verified is nil where nothing was proved and nothing is scheduled.
	Verified *Verified `json:"verified,omitempty"`
}

// BackupList is what a repository has, and what can be restored from it.
type BackupList struct {
	Name       string            `json:"name"`
	Engine     string            `json:"engine"`
	Repository backup.Repository `json:"repository"`
	// Continuity is of an engine that archives the log; nil: it does not, or does not
	// tell.
	Continuity *backup.Continuity `json:"continuity,omitempty"`
	Problem    string             `json:"problem,omitempty"`
}

// backups is the server's part in them.
type backups struct {
	of Backups // nil: this member makes none

	mu   sync.Mutex // guards what follows
	read time.Time
	seen string
	last []BackupList
	err  error
}

// listAge is how long a list is told from memory: anybody may ask, and the engine is
// asked at most this often.
const listAge = 5 * time.Second

// listTimeout bounds the engine's answer.
const listTimeout = 30 * time.Second

// list returns what was read within listAge, or reads anew; also when there are other
// backups than were seen then: anyone who has just made one looks for it.
func (b *backups) list(ctx context.Context, seen string) ([]BackupList, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.read) > listAge || seen != b.seen {
		b.last, b.err = b.of.List(ctx)
		b.read, b.seen = time.Now(), seen
	}
	return b.last, b.err
}

// seenBackups says which backups a status knows of.
func seenBackups(all []BackupStatus) string {
	var seen strings.Builder
	for _, b := range all {
		label := ""
		if b.Good != nil {
			label = b.Good.Label
		}
		fmt.Fprintf(&seen, "%s %s %d\n", b.Name, label, b.Count)
	}
	return seen.String()
}

// listBackups is GET /backup. It asks the engines.
func (s *Server) listBackups(w http.ResponseWriter, r *http.Request) {
	if s.backups.of == nil {
		http.Error(w, noBackups, http.StatusNotFound)
		return
	}
	// Not the request's context: others wait for the same answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), listTimeout)
	defer cancel()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(listTimeout + answerTimeout)) // where it cannot, the usual time holds
	seen := ""
	if f, known := s.facts(); known {
		seen = seenBackups(f.Backups)
	}
	lists, err := s.backups.list(ctx, seen)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	s.writeJSON(w, r, http.StatusOK, lists)
}

const noBackups = "this member's configuration has no block backup"

// backupWait is how long a check may take: the engine waits for a segment to arrive.
const backupWait = 3 * time.Minute

// backupChange makes a change of backups that returns a text.
func (s *Server) backupChange(do func(ctx context.Context, r BackupRequest) (string, error)) func(context.Context, []byte) (int, string, error) {
	return func(ctx context.Context, body []byte) (int, string, error) {
		var r BackupRequest
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

// backupTable is the changes of backups, by path and method.
func (s *Server) backupTable() map[string]map[string]change {
	run := s.backupChange(func(ctx context.Context, r BackupRequest) (string, error) { return s.backups.of.Begin(ctx, r) })
	cancel := s.backupChange(func(ctx context.Context, _ BackupRequest) (string, error) { return s.backups.of.Cancel(ctx) })
	check := s.backupChange(func(ctx context.Context, r BackupRequest) (string, error) { return s.backups.of.Check(ctx, r.Backup) })
	expire := s.backupChange(func(ctx context.Context, r BackupRequest) (string, error) { return s.backups.of.Expire(ctx, r.Backup) })
	return map[string]map[string]change{
		"/backup": {
			http.MethodPost:   {"begin backup", false, shortWait, run},
			http.MethodDelete: {"cancel backup", false, shortWait, cancel},
		},
		"/backup/check":  {http.MethodPost: {"check backups", false, backupWait, check}},
		"/backup/expire": {http.MethodPost: {"expire backups", false, backupWait, expire}},
	}
}

// backupMetrics are those of backups.
func backupMetrics(own func(name, help string, labels []string, read func(f facts, give func(float64, ...string)))) {
	each := func(name, help string, value func(b *BackupStatus) (float64, bool)) {
		own("backup_"+name, help, []string{"backup"}, func(f facts, give func(float64, ...string)) {
			for i := range f.Backups {
				b := &f.Backups[i]
				if v, known := value(b); known && f.leader() == f.self() {
					give(v, b.Name)
				}
			}
		})
	}
	good := func(value func(b *BackupStatus) float64) func(*BackupStatus) (float64, bool) {
		return func(b *BackupStatus) (float64, bool) {
			if b.Good == nil {
				return 0, false
			}
			return value(b), true
		}
	}
	each("age_seconds", "Since the last good backup ended; -1: there is none.", func(b *BackupStatus) (float64, bool) { return b.Age, true })
	each("count", "Backups that the repository has.", func(b *BackupStatus) (float64, bool) { return float64(b.Count), true })
	each("overdue_seconds", "For how long a backup has been due that is not made.", func(b *BackupStatus) (float64, bool) { return b.Overdue, true })
	each("running", "1 while a backup is being made.", func(b *BackupStatus) (float64, bool) { return number(b.Running != nil), true })
	each("failed", "1 if the last try to make a backup failed.", func(b *BackupStatus) (float64, bool) { return number(b.Failed != nil), true })
	each("size_bytes", "Bytes of data that the last good backup restores.", good(func(b *BackupStatus) float64 { return float64(b.Good.Size) }))
	each("stored_bytes", "Bytes that its own files take in the repository.", good(func(b *BackupStatus) float64 { return float64(b.Good.Stored) }))
	proved := func(value func(v *Verified) (float64, bool)) func(*BackupStatus) (float64, bool) {
		return func(b *BackupStatus) (float64, bool) {
			if b.Verified == nil {
				return 0, false
			}
			return value(b.Verified)
		}
	}
	each("verified_age_seconds", "Since the last backup was proved by restoring it; -1: none was.", proved(func(v *Verified) (float64, bool) { return v.Age, true }))
	each("verified_failed", "1 if the last proof failed.", proved(func(v *Verified) (float64, bool) { return number(v.Failed != nil), true }))
	each("verified_rto_seconds", "How long the last proof took to a server that takes writes.", proved(func(v *Verified) (float64, bool) {
		if v.Good == nil {
			return 0, false
		}
		return v.Good.RTO, true
	}))
	each("verified_rpo_seconds", "How much a disaster at the beginning of the last proof would have lost.", proved(func(v *Verified) (float64, bool) {
		if v.Good == nil || v.Good.RPO < 0 {
			return 0, false
		}
		return v.Good.RPO, true
	}))
	each("log_bytes", "Bytes of log that were written since it ended.", good(func(b *BackupStatus) float64 { return float64(b.LogBytes) }))
}

// Archive is how the archive of the log fares. Only the leader knows what waits.
type Archive struct {
	Backup string `json:"backup"` // the block's name
	Engine string `json:"engine"`
	// Position: all log before it is archived. Zero: not known. On a replica it is what
	// the leader said last.
	Position ha.LSN `json:"position"`
	// Leads: this member, as leader, has taken the archive over.
	Leads bool  `json:"leads"`
	Files int   `json:"waiting_files"`
	Bytes int64 `json:"waiting_bytes"`
	// Oldest is for how long the first file has waited, in seconds.
	Oldest float64 `json:"waiting_seconds"`
	// FullIn is when the disk will be full if that goes on, in seconds; nil: it does not.
	FullIn  *float64 `json:"disk_full_in_seconds,omitempty"`
	Problem string   `json:"problem,omitempty"`
	// Gaps are stretches of log that the archive lacks, each with the time that cannot be
	// restored, for people.
	Gaps []string `json:"gaps,omitempty"`
}

// archiveMetrics are those of the archive; a member that has none gives none.
func archiveMetrics(own func(name, help string, labels []string, read func(f facts, give func(float64, ...string)))) {
	single := func(name, help string, value func(a *Archive) (float64, bool)) {
		own("archive_"+name, help, nil, func(f facts, give func(float64, ...string)) {
			if f.Archive == nil || !f.Archive.Leads {
				return
			}
			if v, known := value(f.Archive); known {
				give(v)
			}
		})
	}
	single("waiting_files", "Files of log that the leader's server has yet to archive.", func(a *Archive) (float64, bool) { return float64(a.Files), true })
	single("waiting_bytes", "Bytes of log that the leader's server has yet to archive.", func(a *Archive) (float64, bool) { return float64(a.Bytes), true })
	single("waiting_seconds", "For how long the first of them has waited.", func(a *Archive) (float64, bool) { return a.Oldest, true })
	single("gaps", "Stretches of log that the archive lacks.", func(a *Archive) (float64, bool) { return float64(len(a.Gaps)), true })
	single("disk_full_seconds", "When the leader's disk is full if archiving goes on to fail; absent while it does not.", func(a *Archive) (float64, bool) {
		if a.FullIn == nil {
			return 0, false
		}
		return *a.FullIn, true
	})
}
