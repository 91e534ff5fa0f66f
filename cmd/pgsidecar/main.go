// Command pgsidecar makes PostgreSQL servers one highly available service on
// Consul. Each command has a file of its own; this one holds what they share.
//
// A command reads its configuration, builds the adapters it needs (sessions,
// checks, templates, sidecar/postgres, …), and hands them to what does the
// work: this is the only package that may import everything.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit statuses of every command.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line or the configuration is wrong
)

// logTime is how each line of a log begins.
const logTime = "2006-01-02T15:04:05.000Z07:00"

// version is set by the linker (see the Makefile).
var version = "unknown"

// errUsage marks an error that is the command line's or the configuration's.
var errUsage = errors.New("usage")

// app is what a command has of its process. Nothing else in this package
// reaches for the process's own streams, environment or arguments, so that a
// test can run commands side by side.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	version        string
}

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
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv, version: version}
	return a.run(ctx, args)
}

// run executes one command line and prints its error, if it has one.
func (a *app) run(ctx context.Context, args []string) int {
	root := newRootCommand(a)
	root.SetArgs(twoDashes(args))
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	refuseUnknown(root)
	err := root.ExecuteContext(ctx)
	var silent exitStatus
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &silent):
		return int(silent)
	}
	fmt.Fprintf(a.stderr, "pgsidecar: %v\n", err)
	if errors.Is(err, errUsage) {
		return exitUsage
	}
	return exitFailed
}

// twoDashes lets flags be written as Consul's and Nomad's are, with one dash:
// -config is --config. There are no flags of one letter but -h and -v.
func twoDashes(args []string) []string {
	out := append([]string{}, args...) // never nil, for which cobra takes os.Args
	for i, arg := range out {
		if arg == "--" {
			break
		}
		if len(arg) > 2 && arg[0] == '-' && arg[1] >= 'a' && arg[1] <= 'z' {
			out[i] = "-" + arg
		}
	}
	return out
}

// exitStatus ends a command that has said on stderr what there is to say.
type exitStatus int

// Error returns the status in words; nobody sees it.
func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// usageError is an error of the command line; errors.Is knows it as errUsage.
type usageError struct{ error }

func (e usageError) Is(target error) bool { return target == errUsage }
func (e usageError) Unwrap() error        { return e.error }

// usage returns a usageError.
func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// newRootCommand returns the command tree.
func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "pgsidecar",
		Short: "Make PostgreSQL highly available on Consul",
		Long: "pgsidecar runs beside each PostgreSQL server and makes a set of them one highly\n" +
			"available service on Consul.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       versionWords(a),
		Args:          needCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		newConfigCommand(a),
		newDocsCommand(a),
		newDrillCommand(a),
		newFailoverCommand(a),
		newFilesCommand(a),
		newGuardCommand(a),
		newHistoryCommand(a),
		newLabCommand(a),
		newNomadCommand(a),
		newPauseCommand(a),
		newProxyCommand(a),
		newReinitCommand(a),
		newReloadCommand(a),
		newRemoveCommand(a),
		newRenderCommand(a),
		newRestartCommand(a),
		newResumeCommand(a),
		newRunCommand(a),
		newStatusCommand(a),
		newSwitchoverCommand(a),
		newVersionCommand(a),
	)
	root.SetVersionTemplate("pgsidecar {{.Version}}\n")
	return root
}

// refuseUnknown makes the commands that cobra adds refuse a word that is no command,
// as all others do. The streams must be set: completion takes them over.
func refuseUnknown(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("")
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			cmd.Args, cmd.RunE = needCommand, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		case "help":
			show := cmd.Run
			cmd.Run = nil
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if of, left, err := root.Find(args); err == nil && of != root || len(left) == 0 {
					show(cmd, args)
					return nil
				}
				return needCommand(root, args)
			}
		}
	}
}

// needCommand refuses words that are no command, with the likeliest one.
func needCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2 // letters that may be wrong
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usage("no command %q; did you mean %q?", args[0], near[0])
	}
	return usage("no command %q; see %s --help", args[0], cmd.CommandPath())
}

// noArgs refuses arguments, as a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("%s takes no arguments, and got %q; see %s --help", cmd.CommandPath(), args, cmd.CommandPath())
	}
	return nil
}
