package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/nomad"
)

// newNomadCommand returns `nomad` and the commands under it.
func newNomadCommand(a *Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nomad",
		Short: "Print a job file for Nomad",
		Args:  needCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newNomadJobCommand(a))
	return cmd
}

// newNomadJobCommand returns `nomad job`.
func newNomadJobCommand(a *Process) *cobra.Command {
	var vars []string
	var format output
	release := string(nomad.Release18)
	cmd := &cobra.Command{
		Use:   "job [NAME]",
		Short: "Print a job file with your settings; without a name, list the jobs",
		Long: `Print a job file for Nomad, with the reason for each setting in it. Each --var
changes the default of one of the file's variables; the file keeps them, so that
nomad job run -var still works:

  pgsidecar nomad job exec --var job=orders --var count=5 > orders.nomad.hcl
  nomad job plan orders.nomad.hcl

The file is for Nomad 1.8 and later. Nomad 1.6 and 1.7 refuse some of its blocks:
for them, print the older form with --for 1.6.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("%s takes the name of one job, and got %q", cmd.CommandPath(), args)
			}
			if len(args) == 0 {
				return listJobs(a.Stdout, format)
			}
			text, err := nomad.Job(args[0], nomad.Release(release), vars)
			if err != nil {
				return usageError{err}
			}
			_, err = io.WriteString(a.Stdout, text)
			return err
		},
	}
	format.flag(cmd)
	cmd.Flags().Lookup("output").Usage = "`format` of the list: table, json or yaml"
	cmd.Flags().StringVar(&release, "for", release, "the `release` of Nomad that runs it: 1.6 (and 1.7) or 1.8 (and later)")
	cmd.Flags().StringArrayVar(&vars, "var", nil, "set a variable's default: `name=value`; may be repeated")
	return cmd
}

func listJobs(w io.Writer, format output) error {
	if !format.forPeople() {
		type job struct {
			Name  string `json:"name"`
			About string `json:"about"`
		}
		var all []job
		for _, j := range nomad.Jobs() {
			all = append(all, job{j.Name, j.About})
		}
		return format.write(w, all)
	}
	var b strings.Builder
	for _, j := range nomad.Jobs() {
		fmt.Fprintf(&b, "%-16s %s\n", j.Name, j.About)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
