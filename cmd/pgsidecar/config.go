package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/templates"
)

// newConfigCommand returns `config` and the commands under it.
func newConfigCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, begin or show a configuration; change the cluster-wide settings",
		Args:  needCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigValidateCommand(a), newConfigInitCommand(a), withClusterFlag(a, newConfigShowCommand(a)),
		newConfigSetCommand(a), newConfigEditCommand(a))
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

// load reads the file, and checks what package config cannot know. Diagnostics
// go to stderr.
func (f *configFile) load(a *app) (*config.Config, error) {
	read := config.Load
	if f.proxy {
		read = config.LoadProxy
	}
	c, err := read(f.path, environment())
	if err != nil {
		if _, other := config.LoadProxy(f.path, environment()); !f.proxy && other == nil {
			return nil, usage("%s is a proxy's configuration, not a member's; say so with --proxy", f.path)
		}
		return nil, reportFaults(a, err)
	}
	for _, t := range c.Templates {
		if t.Builtin != "" && !slices.Contains(templates.Builtin(), t.Builtin) {
			return nil, usage("%s: template %q: there is no builtin %q; expected one of %s",
				f.path, t.Name, t.Builtin, strings.Join(templates.Builtin(), ", "))
		}
	}
	return c, nil
}

// reportFaults prints what is wrong with a configuration, and returns the
// status for it; other errors it returns.
func reportFaults(a *app, err error) error {
	var faults *config.Error
	if !errors.As(err, &faults) {
		return err
	}
	if err := faults.Print(a.stderr); err != nil {
		return err
	}
	return exitStatus(exitUsage)
}

func newConfigValidateCommand(a *app) *cobra.Command {
	var file configFile
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Say what is wrong with a configuration; exit 2 if anything is",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := file.load(a)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%s: good; member %s of cluster %s\n", file.path, c.Member, c.Cluster)
			return err
		},
	}
	file.flags(cmd)
	return cmd
}

func newConfigShowCommand(a *app) *cobra.Command {
	var file configFile
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration in effect: the file's, defaults, and what was derived; no secrets",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := file.load(a)
			if err != nil {
				return err
			}
			return c.Write(a.stdout)
		},
	}
	file.flags(cmd)
	return cmd
}

func newConfigInitCommand(a *app) *cobra.Command {
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
				_, err := io.WriteString(a.stdout, text)
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
