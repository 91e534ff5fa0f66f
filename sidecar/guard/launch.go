package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// maxGuardLog bounds the guard's own log, of which one older file is kept. It
// is looked at when a guard starts: a guard writes a line for what happens to
// its server and none for what it is asked every second.
const maxGuardLog = 1 << 20

// launch starts a guard that does not depend on this process: in its own
// session, with its output in a file. It returns when the guard listens, or the
// guard's reason why it does not (ErrGuarded: there is another).
func launch(ctx context.Context, options ClientOptions) error {
	if err := os.MkdirAll(options.StateDir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	name := filepath.Join(options.StateDir, "guard.log")
	log, err := rights.OwnerOf(options.StateDir).Append(name, maxGuardLog)
	if err != nil {
		return fmt.Errorf("open the guard's log: %w", err)
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer ready.Close()

	// Not CommandContext: the guard must outlive ctx.
	guard := exec.Command(options.Executable, options.Args...)
	guard.Dir = "/"
	guard.Env = append(guardEnvironment(), readyVariable+"=3") // 3 is the first of ExtraFiles
	guard.Stdout, guard.Stderr = log, log
	guard.ExtraFiles = []*os.File{theirs}
	guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = guard.Start()
	theirs.Close()
	if err != nil {
		return err
	}
	// It must not stay a zombie while this process lives. Ends with the guard
	// or with this process.
	go guard.Wait()
	return awaitReady(ctx, ready, name)
}

// guardEnvironment is what a guard inherits: nothing that may hold a secret,
// such as a Consul token, because it lives longer than the sidecar.
func guardEnvironment() []string {
	var env []string
	for _, name := range []string{"PATH", "LANG", "TZ", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// awaitReady reads the guard's report on how its start went.
func awaitReady(ctx context.Context, ready *os.File, log string) error {
	stop := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Unix(1, 0)) }) // now
	defer stop()
	var r response
	if err := json.NewDecoder(ready).Decode(&r); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the guard: %w", context.Cause(ctx))
		}
		return errors.New("the guard ended before it was ready; see " + log)
	}
	return r.err()
}
