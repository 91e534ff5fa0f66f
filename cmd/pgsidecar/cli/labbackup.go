package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// accident is a table that was deleted at the press of a key, and is restored at that of
// another.
type accident struct {
	before time.Time // just before the table was deleted; zero: none was
}

const (
	// labRestore is how long a restore of a lab may take on a busy machine.
	labRestore = 5 * time.Minute
	labPoll    = 250 * time.Millisecond
)

var errNoAccident = errors.New("no table was deleted: press d first")

// firstBackup makes the backup that a restore begins with, and says so.
func (v *labView) firstBackup(ctx context.Context, done chan<- string) {
	what := "the first backup is made: press d to delete the writer's table, then r to restore it"
	ctx, cancel := context.WithTimeout(ctx, labRestore)
	defer cancel()
	st, err := awaitLab(ctx, v.lab, func(st *api.Status) bool { return st.Archive != nil && st.Archive.Leads })
	if err == nil {
		err = v.lab.Change(ctx, st.Leader, "/backup", []byte("{}"))
	}
	if err == nil {
		_, err = awaitLab(ctx, v.lab, func(st *api.Status) bool { return len(st.Backups) > 0 && st.Backups[0].Good != nil })
	}
	if err != nil {
		what = "there is no backup: " + err.Error()
	}
	select {
	case done <- what:
	case <-ctx.Done():
	}
}

// awaitLab waits until the leader's status is as wanted.
func awaitLab(ctx context.Context, l *lab.Lab, is func(*api.Status) bool) (*api.Status, error) {
	tick := time.NewTicker(labPoll)
	defer tick.Stop()
	for {
		if st := askLab(ctx, l); st != nil && st.Member == st.Leader && is(st) {
			return st, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// delete deletes the table that the writer writes to.
func (v *labView) delete(ctx context.Context) (string, error) {
	before, err := v.beat.DropTable(ctx)
	if err != nil {
		return "", err
	}
	v.accident.Store(&accident{before: before})
	return "deleted the writer's table, at " + before.Format("15:04:05.000") + "; r restores it", nil
}

// restore restores the cluster to just before the table was deleted, and waits until it
// takes writes.
func (v *labView) restore(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, labRestore)
	defer cancel()
	a := v.accident.Load()
	if a == nil {
		return "", errNoAccident
	}
	began := time.Now()
	st, err := awaitLab(ctx, v.lab, func(st *api.Status) bool { return st.Primary })
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(api.RestoreRequest{Kind: backup.ToTime, Value: a.before.UTC().Format(time.RFC3339Nano)})
	if err != nil {
		return "", err
	}
	if err := v.lab.Change(ctx, st.Leader, "/restore", body); err != nil {
		return "", err
	}
	now, err := awaitLab(ctx, v.lab, func(now *api.Status) bool {
		return now.Restored != "" && now.Restored != st.Restored && now.Phase == ha.PhaseLeading && now.Primary
	})
	if err != nil {
		return "", err
	}
	v.accident.Store(nil)
	return fmt.Sprintf("restored to %s: %s takes writes after %.1f s", a.before.Format("15:04:05.000"), now.Leader, time.Since(began).Seconds()), nil
}
