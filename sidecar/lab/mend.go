package lab

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// Break notes in the journal that this process is about to break something, so
// that a later one knows if it is killed before it calls Mended.
func (l *Lab) Break(what string) error {
	started, err := startTime(os.Getpid())
	if err != nil {
		return err
	}
	return l.Sites()[0].record(entry{What: broken, Name: what, PID: os.Getpid(), Started: started})
}

// Mended notes that what was broken is whole again.
func (l *Lab) Mended() error { return l.Sites()[0].record(entry{What: mended}) }

// Broken returns what a process that is gone has broken and not mended; empty:
// nothing.
func (l *Lab) Broken() (string, error) {
	entries, err := readJournal(l.Sites()[0].plan.Dir)
	if err != nil {
		return "", err
	}
	var last entry
	for _, e := range entries {
		if e.What == broken || e.What == mended {
			last = e
		}
	}
	if last.What != broken || runs(last) {
		return "", nil
	}
	return last.Name, nil
}

// Orphan reports whether the process that was to remove this lab is gone: it
// was killed, and the lab is to be removed by the next Up or Down.
func (l *Lab) Orphan() (bool, error) {
	entries, err := readJournal(l.plan.Dir)
	if err != nil {
		return false, err
	}
	orphan := false
	for _, e := range entries {
		switch e.What {
		case ownedBy:
			orphan = !runs(e)
		case detached:
			orphan = false
		}
	}
	return orphan, nil
}

// runs reports whether the process of an entry still runs.
func runs(e entry) bool {
	p, err := open(e.PID)
	if err != nil {
		return false
	}
	defer p.close()
	return p.started == e.Started
}

// Mend undoes all that can be broken in a lab, whatever was: links, stopped
// processes, full or hung disks, archive, token; and starts what does not run.
func (l *Lab) Mend(ctx context.Context) error {
	var errs []error
	for _, site := range l.Sites() {
		errs = append(errs, site.mend(ctx))
	}
	return errors.Join(errs...)
}

func (l *Lab) mend(ctx context.Context) error {
	entries, err := readJournal(l.plan.Dir)
	thawDisks(entries)
	errs := []error{err, l.HealAll(ctx)}
	for _, h := range l.plan.Hosts {
		errs = append(errs, l.SignalHost(ctx, h.Name, syscall.SIGCONT))
		if l.plan.Breakable && h.Kind == KindMember {
			errs = append(errs, l.FreeDisk(h.Name), l.BlockArchive(h.Name, false))
		}
		errs = append(errs, l.StartHost(ctx, h.Name))
	}
	if l.plan.Breakable {
		errs = append(errs, l.GrantToken(ctx))
	}
	return errors.Join(errs...)
}
