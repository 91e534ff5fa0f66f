package process

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// reapEvery is how often dead orphans are looked for.
const reapEvery = 30 * time.Second

// ReapOrphans waits for processes that others have left behind, where this process is the
// first one of a container and so their parent: of a health check that was killed, say. They
// would stay as zombies until no process can be made. It returns when ctx ends, and at
// once where another process does that (docker run --init, systemd).
//
// What starts a process here waits for it as soon as it has ended. So one that was dead at
// the look before, too, is nobody's.
func ReapOrphans(ctx context.Context) {
	if os.Getpid() != 1 {
		return
	}
	again := time.NewTicker(reapEvery)
	defer again.Stop()
	var dead []zombie
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			dead = reap(dead)
		}
	}
}

// zombie is a dead child; a number that is used again has another start.
type zombie struct {
	pid     int
	started string
}

// reap waits for those dead children that were dead before, and returns the others.
func reap(before []zombie) []zombie {
	dead := zombies()
	return slices.DeleteFunc(dead, func(z zombie) bool {
		if !slices.Contains(before, z) {
			return false
		}
		_, err := syscall.Wait4(z.pid, nil, syscall.WNOHANG, nil)
		return err == nil
	})
}

// zombies are this process's children that are dead, and that nobody has waited for.
func zombies() (dead []zombie) {
	lists, _ := filepath.Glob("/proc/self/task/*/children") // the pattern is well formed
	for _, list := range lists {
		children, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, word := range bytes.Fields(children) {
			pid, err1 := strconv.Atoi(string(word))
			stat, err2 := os.ReadFile(filepath.Join("/proc", string(word), "stat"))
			if err1 != nil || err2 != nil {
				continue // it is gone
			}
			// proc(5): after the name, which may have anything in it, the state and, 19 fields later, the start.
			fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
			if len(fields) > 19 && string(fields[0]) == "Z" {
				dead = append(dead, zombie{pid, string(fields[19])})
			}
		}
	}
	return dead
}
