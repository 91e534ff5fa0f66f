package command

import (
	"bufio"
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

// errList: what a list command printed is not of its format.
var errList = errors.New("the list command's output is not understood")

// parseList reads the finished backups.
func parseList(output string, f Format) ([]backup.Backup, error) {
	var all []backup.Backup
	var err error
	if f == WALG {
		all, err = parseWALG(output)
	} else {
		err = json.Unmarshal([]byte(output), &all)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errList, err)
	}
	all = slices.DeleteFunc(all, func(b backup.Backup) bool { return b.Stop.IsZero() })
	for i, b := range all {
		if b.Label == "" || b.Timeline == 0 || b.StartLSN == 0 {
			return nil, fmt.Errorf("%w: backup %d (%q) needs label, timeline and start_lsn", errList, i, b.Label)
		}
	}
	slices.SortStableFunc(all, func(a, b backup.Backup) int { return a.Stop.Compare(b.Stop) })
	return all, nil
}

// detail is a backup of `wal-g backup-list --detail --json`.
type detail struct {
	Name       string    `json:"backup_name"`
	Segment    string    `json:"wal_file_name"`
	Start      time.Time `json:"start_time"`
	Finish     time.Time `json:"finish_time"`
	StartLSN   uint64    `json:"start_lsn"`
	FinishLSN  uint64    `json:"finish_lsn"`
	Version    int       `json:"pg_version"` // such as 150004
	SystemID   *uint64   `json:"system_identifier"`
	Size       int64     `json:"uncompressed_size"`
	Compressed int64     `json:"compressed_size"`
}

// parseWALG reads WAL-G's list. A delta backup names the segment of the one that it
// is built upon: base_SEGMENT_D_SEGMENT.
func parseWALG(output string) ([]backup.Backup, error) {
	var details []detail
	if err := json.Unmarshal([]byte(output), &details); err != nil {
		return nil, err
	}
	labels := map[string]string{} // by segment
	for _, d := range details {
		labels[d.Segment] = d.Name
	}
	var all []backup.Backup
	for _, d := range details {
		b := backup.Backup{Label: d.Name, Kind: backup.Full, Start: d.Start, Stop: d.Finish, StartLSN: ha.LSN(d.StartLSN),
			StopLSN: ha.LSN(d.FinishLSN), Version: d.Version / 10000, Size: d.Size, Stored: d.Compressed}
		if d.SystemID != nil {
			b.SystemID = strconv.FormatUint(*d.SystemID, 10)
		}
		if _, base, delta := strings.Cut(d.Name, "_D_"); delta {
			b.Kind = backup.Incremental
			if b.Prior = labels[base]; b.Prior == "" {
				return nil, fmt.Errorf("what %s is built upon is not in the list", d.Name)
			}
		}
		var err error
		if b.Timeline, err = backup.SegmentTimeline(d.Segment); err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// parseWAL takes the last word of each line for a file's name, with or without a
// folder and the ending of a compression.
func parseWAL(output string) (segments []backup.Segment, histories []string) {
	for scan := bufio.NewScanner(strings.NewReader(output)); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) == 0 {
			continue
		}
		name, ending, _ := strings.Cut(path.Base(fields[len(fields)-1]), ".")
		if _, err := backup.HistoryTimeline(name + ".history"); err == nil && strings.HasPrefix(ending, "history") {
			histories = append(histories, name+".history")
			continue
		}
		// A segment that a promotion cut short, or the label of a backup, is none.
		whole := !strings.HasPrefix(ending, "partial") && !strings.Contains(ending, "backup")
		if len(name) == 24 && whole {
			segments = append(segments, backup.Segment{Name: name})
		}
	}
	return segments, histories
}
