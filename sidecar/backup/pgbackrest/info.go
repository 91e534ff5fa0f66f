package pgbackrest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// errInfo: pgBackRest's output is not as this version of it writes it.
var errInfo = errors.New("pgBackRest's answer is not understood")

// stanza is a part of `pgbackrest info --output=json`, one for each stanza.
type stanza struct {
	Name   string `json:"name"`
	Status struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Lock    struct {
			Backup struct {
				Held bool `json:"held"`
			} `json:"backup"`
		} `json:"lock"`
	} `json:"status"`
	Repo []struct { // with why each cannot be read, where the stanza's status is of no known code
		Status struct {
			Message string `json:"message"`
		} `json:"status"`
	} `json:"repo"`
	DB []struct {
		ID       int    `json:"id"`
		SystemID uint64 `json:"system-id"`
		Version  string `json:"version"`
	} `json:"db"`
	Backup []entry `json:"backup"`
}

// entry is one backup of `pgbackrest info`.
type entry struct {
	Label   string `json:"label"`
	Type    string `json:"type"`
	Prior   string `json:"prior"`
	Error   bool   `json:"error"` // a page failed its checksum
	Archive struct {
		Start string `json:"start"`
	} `json:"archive"`
	Database struct {
		ID int `json:"id"`
	} `json:"database"`
	Info struct {
		Size       int64 `json:"size"`
		Repository struct {
			Delta int64 `json:"delta"`
		} `json:"repository"`
	} `json:"info"`
	LSN struct {
		Start ha.LSN `json:"start"`
		Stop  ha.LSN `json:"stop"`
	} `json:"lsn"`
	Timestamp struct {
		Start int64 `json:"start"` // seconds since 1970
		Stop  int64 `json:"stop"`
	} `json:"timestamp"`
	Tablespace []struct { // only where info names one backup
		OID         uint32 `json:"oid"`
		Destination string `json:"destination"`
	} `json:"tablespace"`
}

// parseSpaces reads the tablespaces of the one backup that info was to name.
func parseSpaces(output, label string) ([]backup.Space, error) {
	var all []stanza
	if err := json.Unmarshal([]byte(output), &all); err != nil {
		return nil, fmt.Errorf("%w: %w", errInfo, err)
	}
	for _, s := range all {
		for _, e := range s.Backup {
			if e.Label != label {
				continue
			}
			spaces := []backup.Space{}
			for _, t := range e.Tablespace {
				spaces = append(spaces, backup.Space{OID: t.OID, Dir: t.Destination})
			}
			return spaces, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", backup.ErrNoBackup, label)
}

// The codes of a stanza's status that pgBackRest documents.
const (
	statusOK          = 0
	statusMissingPath = 1
	statusNoBackup    = 2
	statusMissingData = 3
)

// parseInfo reads the one stanza. A repository that cannot be read has a status of
// another code, and the reason in its message.
func parseInfo(output, name string) (backup.Repository, error) {
	var all []stanza
	// With a wrong key the message has the bytes of the file, as they are.
	output = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, output)
	if err := json.Unmarshal([]byte(output), &all); err != nil {
		if _, kind := match(output); kind != nil {
			return backup.Repository{}, said(`the repository cannot be read` + "\n" + output)
		}
		return backup.Repository{}, fmt.Errorf("%w: %w", errInfo, err)
	}
	i := slices.IndexFunc(all, func(s stanza) bool { return s.Name == name })
	if i < 0 {
		return backup.Repository{}, fmt.Errorf("%w: stanza %s is not in it", backup.ErrNoRepository, name)
	}
	s := all[i]
	switch s.Status.Code {
	case statusOK, statusNoBackup:
	case statusMissingPath, statusMissingData:
		return backup.Repository{}, fmt.Errorf("%w: %s", backup.ErrNoRepository, s.Status.Message)
	default:
		message := s.Status.Message
		for _, repo := range s.Repo {
			message += "\n" + repo.Status.Message
		}
		return backup.Repository{}, said(message)
	}
	r := backup.Repository{Free: -1, Running: s.Status.Lock.Backup.Held}
	systems, versions := map[int]string{}, map[int]int{}
	for _, db := range s.DB {
		systems[db.ID] = strconv.FormatUint(db.SystemID, 10)
		versions[db.ID], _ = strconv.Atoi(db.Version) // "9.6" is older than any that is supported
		r.SystemID = systems[db.ID]                   // they are in their order; the last is current
	}
	for _, e := range s.Backup {
		b, err := e.backup()
		if err != nil {
			return backup.Repository{}, err
		}
		b.SystemID, b.Version = systems[e.Database.ID], versions[e.Database.ID]
		r.Backups = append(r.Backups, b)
	}
	slices.SortStableFunc(r.Backups, func(a, b backup.Backup) int { return cmp.Or(a.Stop.Compare(b.Stop), cmp.Compare(a.Label, b.Label)) })
	return r, nil
}

func (e entry) backup() (backup.Backup, error) {
	b := backup.Backup{Label: e.Label, Kind: backup.Kind(e.Type), Prior: e.Prior, Damaged: e.Error,
		Start: time.Unix(e.Timestamp.Start, 0).UTC(), Stop: time.Unix(e.Timestamp.Stop, 0).UTC(),
		StartLSN: e.LSN.Start, StopLSN: e.LSN.Stop, Size: e.Info.Size, Stored: e.Info.Repository.Delta}
	switch b.Kind {
	case backup.Full, backup.Differential, backup.Incremental:
	default:
		return b, fmt.Errorf("%w: backup %s is of type %q", errInfo, e.Label, e.Type)
	}
	var err error
	if b.Timeline, err = backup.SegmentTimeline(e.Archive.Start); err != nil || e.Label == "" {
		return b, fmt.Errorf("%w: backup %q begins in %q", errInfo, e.Label, e.Archive.Start)
	}
	return b, nil
}

// listed is one file of `pgbackrest repo-ls --recurse --output=json`.
type listed struct {
	Type string `json:"type"`
	Size int64  `json:"size"`
	Time int64  `json:"time"` // seconds since 1970
}

// parseArchive reads the files of a stanza's archive: segments, and the paths of
// history files. Only the newest server counts (folder VERSION-ID): one that was
// upgraded has begun another log.
func parseArchive(output string) (segments []backup.Segment, histories []string, err error) {
	files := map[string]listed{}
	if err := json.Unmarshal([]byte(output), &files); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errInfo, err)
	}
	newest, current := 0, ""
	for name := range files {
		folder, _, _ := strings.Cut(name, "/")
		_, id, found := strings.Cut(folder, "-")
		if n, err := strconv.Atoi(id); found && err == nil && n > newest {
			newest, current = n, folder
		}
	}
	for name, f := range files {
		folder, _, _ := strings.Cut(name, "/")
		base := path.Base(name)
		if f.Type != "file" || folder != current {
			continue
		}
		if strings.HasSuffix(base, ".history") {
			histories = append(histories, name)
			continue
		}
		// A segment's name is followed by its checksum: NAME-SHA1[.COMPRESSION]. What
		// is still being copied has a further ending.
		segment, rest, found := strings.Cut(base, "-")
		if found && len(segment) == 24 && !strings.HasSuffix(rest, ".pgbackrest.tmp") {
			segments = append(segments, backup.Segment{Name: segment, At: time.Unix(f.Time, 0).UTC()})
		}
	}
	slices.SortFunc(segments, func(a, b backup.Segment) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(histories)
	return segments, histories, nil
}
