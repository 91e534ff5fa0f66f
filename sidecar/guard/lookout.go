package guard

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/postmaster"
)

// lookoutEvery is how often it is looked, while the guard's own server does not run,
// whether somebody else has started one on its data directory. (While it runs
// PostgreSQL itself lets no second one start.) A look reads one small file.
const lookoutEvery = 100 * time.Millisecond

// lookout is what the keeper has of the watch for strangers.
type lookout struct {
	found   chan int // from lookOut
	dataDir string   // of the last server
	end     func()   // ends the one that looks
	ended   int      // the stranger that was told to end
}

// lookOut watches a data directory for a server that no guard has started, until ctx
// is done. It tells found its process id, and 0 when it has ended, each once.
func lookOut(ctx context.Context, stateDir, dataDir string, found chan<- int) {
	tick := time.NewTicker(lookoutEvery)
	defer tick.Stop()
	last := 0
	for {
		// An error is no news: what was known stays.
		if pid, err := Stranger(stateDir, dataDir); err == nil && pid != last {
			select {
			case found <- pid:
				last = pid
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// watchFor begins to look out for strangers, as the guard's own server does not run.
func (k *keeper) watchFor(dataDir string) {
	k.watch.end()
	if dataDir == "" {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.watch.dataDir, k.watch.end = dataDir, cancel
	go lookOut(ctx, k.options.StateDir, dataDir, k.watch.found)
}

// strange takes over which stranger runs; 0: none.
func (k *keeper) strange(pid int) {
	if pid == k.status.Stranger || k.status.Running && pid != 0 {
		return
	}
	k.status.Stranger = pid
	k.broadcast()
	if pid != 0 {
		k.journal.log(hclog.Warn, "a server runs on the data directory that no guard has started", "pid", pid, "armed", k.lease.armed)
	}
}

// endStranger ends, for a primary's lease that is over, a server that somebody else
// has started in the place of the one the lease was for (S5): it takes writes as that
// one did. It waits on the disk and on /proc, so not on the deadline's path.
func (k *keeper) endStranger() {
	pid, dataDir := k.status.Stranger, k.watch.dataDir
	if pid == 0 || pid == k.watch.ended {
		return
	}
	k.watch.ended = pid
	k.journal.log(hclog.Warn, "lease ended, stopping the server that was started beside the guard", "pid", pid)
	go func() {
		// Beside the keeper, which hears by the lookout what came of it.
		if err := postmaster.End(context.Background(), dataDir, pid, true); err != nil {
			k.journal.log(hclog.Error, "the server that was started beside the guard was not stopped", "pid", pid, "error", err)
		}
	}()
}
