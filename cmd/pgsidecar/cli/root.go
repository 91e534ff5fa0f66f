package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/spf13/cobra"
)

// The exit statuses of every command.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2 // the command line or the configuration is wrong
)

// errUsage marks an error that is the command line's or the configuration's.
var errUsage = errors.New("usage")

// Process is what a command has of its process. Nothing else in this package
// reaches for the process's own streams, environment or arguments, so that a
// test can run commands side by side.
type Process struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Version        string
}

// Run executes one command line and prints its error, if it has one.
func (a *Process) Run(ctx context.Context, args []string) int {
	root := newRootCommand(a)
	root.SetArgs(twoSites(twoDashes(args)))
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	refuseUnknown(root)
	err := root.ExecuteContext(ctx)
	var silent exitStatus
	var ended *sidecar.ExitError // which the member has logged
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &silent):
		return int(silent)
	case errors.As(err, &ended):
		return ended.Code
	}
	fmt.Fprintf(a.Stderr, "pgsidecar: %v\n", err)
	if errors.Is(err, errUsage) || errors.Is(err, config.ErrConfig) || errors.Is(err, client.ErrAddress) {
		return ExitUsage
	}
	return ExitFailed
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

// twoSites has --sites without a number mean two: there is no other number of sites to ask
// for, and a flag whose value may be left out takes none from the next word.
func twoSites(args []string) []string {
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if arg != "--sites" {
			continue
		}
		if i+1 == len(args) || !isNumber(args[i+1]) {
			args[i] = "--sites=2"
		}
	}
	return args
}

func isNumber(word string) bool {
	_, err := strconv.Atoi(word)
	return err == nil
}

// exitStatus ends a command that has said on stderr what there is to say.
type exitStatus int

// Error returns the status in words; nobody sees it.
func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// usageError is an error of the command line; errors.Is knows it as errUsage.
type usageError struct{ error }

func (e usageError) Is(target error) bool { return target == errUsage }

func (e usageError) Unwrap() error { return e.error }

// usage returns a usageError.
func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// newRootCommand returns the command tree.
func newRootCommand(a *Process) *cobra.Command {
	root := &cobra.Command{
		Use:           "pgsidecar",
		Short:         "Make PostgreSQL highly available on Consul",
		Long:          "pgsidecar makes PostgreSQL servers one highly available service on Consul.",
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
		newAssessCommand(a),
		newAvailabilityCommand(a),
		newBackupCommand(a),
		newRestoreCommand(a),
		newConfigCommand(a),
		newSettingsCommand(a),
		newTopologyCommand(a),
		newDocsCommand(a),
		newDrillCommand(a),
		newFailoverCommand(a),
		newFilesCommand(a),
		newGuardCommand(a),
		newHistoryCommand(a),
		newImportCommand(a),
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
		newSiteCommand(a),
		newVersionCommand(a),
	)
	root.SetVersionTemplate("pgsidecar {{.Version}}\n")
	root.SetHelpCommand(newHelpCommand())
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		if err := writeHelp(cmd.OutOrStdout(), cmd); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "pgsidecar: %v\n", err)
		}
	})
	return root
}

// refuseUnknown makes the command that cobra adds refuse a word that is no command,
// as all others do. The streams must be set: completion takes them over.
func refuseUnknown(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("")
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Args, cmd.RunE = needCommand, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
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
