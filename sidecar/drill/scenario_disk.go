package drill

import (
	"context"
	"fmt"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

func diskScenarios() []Scenario {
	return []Scenario{
		{
			Name: "disk-full", Why: "the primary's disk is full: no block can be added to data or WAL", Away: true, Breakable: true, Expect: Moves,
			Fault: func(_ context.Context, c Cast) error { return c.Lab.FillDisk(c.Primary) },
			Check: func(ctx context.Context, c Cast) error { return promised(ctx, c, c.Primary) },
			Undo:  func(_ context.Context, c Cast) error { return c.Lab.FreeDisk(c.Primary) },
		},
		{
			Name: "disk-full-standby", Why: "a replica's disk is full", Away: true, Breakable: true, Expect: Stays, Hold: 8 * time.Second,
			Fault: func(_ context.Context, c Cast) error { return c.Lab.FillDisk(c.Replicas[0]) },
			Undo:  func(_ context.Context, c Cast) error { return c.Lab.FreeDisk(c.Replicas[0]) },
		},
		{
			Name: "disk-hung", Why: "the primary's disk hangs: every write to it waits, and who waits cannot be killed", Away: true, Breakable: true, Hangs: true, Expect: Moves,
			Fault: func(_ context.Context, c Cast) error { return c.Lab.HangDisk(c.Primary) },
			Undo:  func(_ context.Context, c Cast) error { return c.Lab.ThawDisk(c.Primary) },
		},
		{
			Name: "disk-replaced", Why: "a voter's disk is replaced by an empty one, and its member is started again", Away: true, Expect: Stays,
			Fault: func(ctx context.Context, c Cast) error {
				if err := c.Lab.KillMember(ctx, c.Replicas[0]); err != nil {
					return err
				}
				if err := c.Lab.ReplaceDisk(c.Replicas[0]); err != nil {
					return err
				}
				return startAbsent(ctx, c, c.Replicas[0], lab.Sidecar)
			},
			Check: func(ctx context.Context, c Cast) error { return cloned(ctx, c, c.Replicas[0], 0) },
			Undo:  func(ctx context.Context, c Cast) error { return startAbsent(ctx, c, c.Replicas[0], lab.Sidecar) },
		},
		{
			Name: "archive-blocked", Why: "archive_command fails on the primary: it keeps its WAL and writes on", Breakable: true, Expect: Stays,
			Hold:  5 * time.Second,
			Fault: func(_ context.Context, c Cast) error { return c.Lab.BlockArchive(c.Primary, true) },
			Check: archiveKept,
			Undo:  unblockArchive,
		},
		{
			Name: "wal-damaged", Why: "a replica's host loses power, and its WAL is unreadable when it comes back", Away: true, Expect: Stays, Hold: 3 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				if err := c.Lab.KillMember(ctx, c.Replicas[0]); err != nil {
					return err
				}
				n, err := c.Lab.DamageWAL(c.Replicas[0])
				if err == nil && n == 0 {
					err = fmt.Errorf("%s has no WAL to damage", c.Replicas[0])
				}
				return err
			},
			Undo: func(ctx context.Context, c Cast) error { return startAbsent(ctx, c, c.Replicas[0], lab.Sidecar) },
		},
	}
}

// promised waits until a member has promised the term that is led, which it writes.
func promised(ctx context.Context, c Cast, member string) error {
	led, err := c.Lab.Record(ctx)
	if err != nil {
		return err
	}
	at, err := waitUntil(ctx, func() (int, error) { return c.Lab.Promise(member) }, func(term int) bool { return uint64(term) >= led.Term })
	if err != nil {
		return fmt.Errorf("wait until %s has promised term %d (now %d): %w", member, led.Term, at, err)
	}
	return nil
}

// archiveKept waits until the primary has a segment that it could not archive,
// and looks after a few more attempts that it still has all of them.
func archiveKept(ctx context.Context, c Cast) error {
	waiting := func() (int, error) { return c.Lab.WaitingForArchive(c.Primary) }
	first, err := waitUntil(ctx, waiting, func(n int) bool { return n > 0 })
	if err != nil {
		return fmt.Errorf("wait for a segment that is not archived: %w", err)
	}
	sleep(ctx, 3*time.Second) // PostgreSQL tries again every second
	if n, err := waiting(); err != nil || n < first {
		return fmt.Errorf("%d segments wait for the archive, and %d did before (%v)", n, first, err)
	}
	return nil
}

// unblockArchive waits, after the archive is open again, until all is archived.
func unblockArchive(ctx context.Context, c Cast) error {
	if err := c.Lab.BlockArchive(c.Primary, false); err != nil {
		return err
	}
	_, err := waitUntil(ctx, func() (int, error) { return c.Lab.WaitingForArchive(c.Primary) }, func(n int) bool { return n == 0 })
	if err != nil {
		return fmt.Errorf("wait until all is archived: %w", err)
	}
	return nil
}

// waitUntil asks now and then, for files that tell nobody when they change.
func waitUntil(ctx context.Context, ask func() (int, error), done func(int) bool) (int, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := ask()
		if err != nil || done(n) {
			return n, err
		}
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-tick.C:
		}
	}
}
