package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/member"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
	"github.com/pgsidecar/pgsidecar/sidecar/proxy"
)

// newConfigCommand returns `config` and the commands under it.
func newConfigCommand(a *Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Begin, check or show the configuration of a member or a proxy",
		Args:  needCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigValidateCommand(a), newConfigInitCommand(a), withClusterFlag(a, newConfigShowCommand(a)),
		hidden(newSettingsSetCommand(a)), hidden(newSettingsEditCommand(a)))
	return cmd
}

// configFile is how a command is told which file to read.
type configFile struct {
	path  string
	proxy bool
}

// flags adds -config and -proxy.
func (f *configFile) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.path, "config", "pg.hcl", "the configuration `file`")
	cmd.Flags().BoolVar(&f.proxy, "proxy", false, "it is a proxy's, such as proxy.hcl")
}

// read reads the file, and checks what package config cannot know.
func (f *configFile) read() (*config.Config, error) {
	read := config.Load
	if f.proxy {
		read = config.LoadProxy
	}
	c, err := read(f.path, process.Environment())
	if err != nil {
		return nil, f.otherKind(err)
	}
	if err := proxy.CheckBuiltins(c); err != nil {
		return nil, usage("%s: %w", f.path, err)
	}
	return c, nil
}

// otherKind returns an error that says so if the file was not refused for its faults:
// it is one of a proxy.
func (f *configFile) otherKind(err error) error {
	if _, other := config.LoadProxy(f.path, process.Environment()); !f.proxy && other == nil {
		return usage("%s is a proxy's configuration, not a member's; say so with --proxy", f.path)
	}
	return err
}

// reportFaults prints what is wrong with a configuration, and returns the
// status for it; other errors it returns.
func reportFaults(a *Process, err error) error {
	var faults *config.Error
	if !errors.As(err, &faults) {
		return err
	}
	if err := faults.Print(a.Stderr); err != nil {
		return err
	}
	return exitStatus(ExitUsage)
}

func newConfigValidateCommand(a *Process) *cobra.Command {
	var file configFile
	var elsewhere bool
	var format output
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Say what is wrong with a configuration; exit 2 if anything is",
		Long: `Say what is wrong with a configuration; exit 2 if anything is. What is refused here
run refuses too, with the same words: PostgreSQL's own program is asked whether it
takes the parameters, and the files that are named must exist. On a machine that has
neither, use --elsewhere.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			c, tried, err := file.judge(a, elsewhere)
			if !format.forPeople() {
				return verdictOf(file.path, c, err).write(a.Stdout, format)
			}
			if err != nil {
				return reportFaults(a, err)
			}
			_, err = fmt.Fprintf(a.Stdout, "%s: good; member %s of cluster %s\n%s\n", file.path, c.Member, c.Cluster, tried)
			return err
		},
	}
	file.flags(cmd)
	format.flag(cmd)
	cmd.Flags().BoolVar(&elsewhere, "elsewhere", false, "do not look at the files and programs of this machine: the member runs on another one")
	return cmd
}

// judge reads the file, says what of it was tried, and returns what `run` would refuse;
// with elsewhere only what does not depend on this machine.
func (f *configFile) judge(a *Process, elsewhere bool) (c *config.Config, tried string, err error) {
	if f.proxy || elsewhere {
		c, err = f.read()
		return c, "not tried: PostgreSQL's parameters, and whether the files exist that it names", err
	}
	if c, err = member.Validate(f.path, a.Version); err != nil {
		return nil, "", f.otherKind(err)
	}
	return c, member.Tried(c), nil
}

// verdict is what `config validate` says of a file to programs.
type verdict struct {
	File    string              `json:"file"`
	Good    bool                `json:"good"`
	Member  string              `json:"member,omitempty"`
	Cluster string              `json:"cluster,omitempty"`
	Faults  []config.Diagnostic `json:"faults"`
}

func verdictOf(path string, c *config.Config, err error) verdict {
	v := verdict{File: path, Faults: []config.Diagnostic{}}
	var faults *config.Error
	switch {
	case errors.As(err, &faults):
		v.Faults = faults.Diagnostics
	case err != nil:
		v.Faults = append(v.Faults, config.Diagnostic{File: path, Text: err.Error()})
	default:
		v.Good, v.Member, v.Cluster = true, c.Member, c.Cluster
	}
	return v
}

// write writes it, and returns the exit status of a fault.
func (v verdict) write(w io.Writer, format output) error {
	if err := format.write(w, v); err != nil {
		return err
	}
	if !v.Good {
		return exitStatus(ExitUsage)
	}
	return nil
}

func newConfigShowCommand(a *Process) *cobra.Command {
	var file configFile
	var format output
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration in effect: the file's, defaults, and what was derived; no secrets",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := file.read()
			if err != nil {
				return reportFaults(a, err)
			}
			if !format.forPeople() {
				return format.write(a.Stdout, c.Object())
			}
			return c.Write(a.Stdout)
		},
	}
	file.flags(cmd)
	format.flag(cmd)
	return cmd
}

func newConfigInitCommand(a *Process) *cobra.Command {
	var proxy bool
	cmd := &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a commented pg.hcl to begin with, to stdout or to a new file; or a proxy.hcl",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("%s takes one file, and got %q", cmd.CommandPath(), args)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) (err error) {
			text := config.Example()
			if proxy {
				text = config.ExampleProxy()
			}
			if len(args) == 0 || args[0] == "-" {
				_, err := io.WriteString(a.Stdout, text)
				return err
			}
			file, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if err != nil {
				return fmt.Errorf("write configuration: %w", err)
			}
			defer func() { err = errors.Join(err, file.Close()) }()
			_, err = io.WriteString(file, text)
			return err
		},
	}
	cmd.Flags().BoolVar(&proxy, "proxy", false, "a proxy's: HAProxy, PgBouncer and templates")
	return cmd
}
