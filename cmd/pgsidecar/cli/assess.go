package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/assess"
	"github.com/pgsidecar/pgsidecar/sidecar/assess/gather"
)

// noLevel is --min-level when it is not given: the level is only shown.
const noLevel = -1

func newAssessCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var format output
	var prometheus, page string
	var least int
	cmd := &cobra.Command{
		Use:   "assess",
		Short: "Show how mature the cluster is, by evidence, and what the next level needs",
		Long: `Show how mature the cluster is: level 0 (one server) to 4 (several sites, no single
point of failure), each a checklist. A line is yes, no or unknown by what was looked up: in
the members' API, in Consul and, with --prometheus, in Prometheus. A level is reached when
every line of it and of the levels below is yes. For what is missing it shows the command
that begins it. With --min-level the exit status is 1 below that level, for CI.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if least < noLevel || least > assess.MaxLevel || least == noLevel && cmd.Flags().Changed("min-level") {
				return usage("--min-level %d: expected 0 to %d", least, assess.MaxLevel)
			}
			if u, err := url.Parse(prometheus); err != nil || prometheus != "" && (u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
				return usage("--prometheus %q: expected its address, such as http://127.0.0.1:9090", prometheus)
			}
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			evidence, err := gather.Evidence(cmd.Context(), gather.Sources{Client: c, Prometheus: prometheus})
			if err != nil {
				return err
			}
			report := assess.Judge(evidence)
			if err := writeAssessment(a.Stdout, &report, format, page); err != nil {
				return err
			}
			if report.Level < least {
				return fmt.Errorf("the cluster is at level %d, below %d", report.Level, least)
			}
			return nil
		},
	}
	flags.add(cmd)
	format.flag(cmd)
	f := cmd.Flags()
	f.StringVar(&prometheus, "prometheus", "", "`address` of Prometheus, to look for alert rules and Alertmanagers")
	f.IntVar(&least, "min-level", noLevel, "`level` that the cluster must reach, else the exit status is 1")
	f.StringVar(&page, "html", "", "also write the report to this `file`, as one page")
	f.Lookup("min-level").DefValue = "0" // which help does not show; -1 would say nothing
	return cmd
}

func writeAssessment(to io.Writer, r *assess.Report, format output, page string) error {
	if page != "" {
		var b bytes.Buffer
		if err := r.WriteHTML(&b); err != nil {
			return err
		}
		if err := os.WriteFile(page, b.Bytes(), 0o644); err != nil {
			return fmt.Errorf("write the page: %w", err)
		}
	}
	if !format.forPeople() {
		return format.write(to, r)
	}
	fmt.Fprintf(to, "cluster %s: level %d of %d, %s\n\n", r.Cluster, r.Level, assess.MaxLevel, r.Name)
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "level\tanswer\twhat\tevidence")
	for _, l := range r.Lines {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\n", l.Level, l.Answer, l.What, l.Evidence)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Missing) == 0 {
		return nil
	}
	fmt.Fprintf(to, "\nLevel %d (%s) needs, and this begins it:\n", r.Level+1, assess.LevelName(r.Level+1))
	for _, l := range r.Missing {
		fmt.Fprintf(t, "  %s\t%s\n", l.What, l.Command)
	}
	return t.Flush()
}
