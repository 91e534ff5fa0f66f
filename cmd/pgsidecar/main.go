// Command pgsidecar makes PostgreSQL servers one highly available service on
// Consul. What it does is in packages: cli has the commands.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
)

// version is set by the linker (see the Makefile).
var version = "unknown"

func main() {
	// The first SIGINT or SIGTERM ends the context, and the command with it,
	// in order; a second one ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main with its process passed in. It returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &cli.Process{Stdin: stdin, Stdout: stdout, Stderr: stderr, Getenv: os.Getenv, Version: version}
	return a.Run(ctx, args)
}
