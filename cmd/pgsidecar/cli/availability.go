package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/availability"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// availabilityReport is what `availability` shows.
type availabilityReport struct {
	Cluster   string                `json:"cluster"`
	Objective float64               `json:"objective,omitempty"`
	Budget    *availability.Budget  `json:"budget,omitempty"` // of the last 30 days
	RTO       availability.Seconds  `json:"rto_seconds,omitempty"`
	Whole     availability.Period   `json:"whole"`
	Periods   []availability.Period `json:"periods"`
	Outages   []availability.Outage `json:"outages"`
	Unread    int                   `json:"unread_lines,omitempty"`
}

func newAvailabilityCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var format output
	var by, objective string
	cmd := &cobra.Command{
		Use:   "availability",
		Short: "Show how long the cluster took writes, each outage, and what an objective leaves",
		Long: `Show how long the cluster took writes: (total - down) / total, each outage with its
cause, and what is left of the error budget. The objective is the settings' one
(pgsidecar settings set objective.availability=99.99), or --objective. A time that
nobody saw, because no member ran, is unknown: it is in no figure.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			share, err := parseObjective(objective)
			if err != nil {
				return err
			}
			spans := availability.Spans(by)
			if spans != availability.Daily && spans != availability.Monthly && spans != availability.Yearly {
				return usage("--by %s: expected day, month or year", by)
			}
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			known, err := askAvailability(cmd.Context(), c)
			if err != nil {
				return err
			}
			wanted := availability.Objective{Availability: share}
			if o := known.Objective; o != nil {
				wanted.RTO, wanted.Availability = o.RTO, cmp.Or(share, o.Availability)
			}
			r := availabilityReport{Cluster: known.Cluster, Objective: wanted.Availability, RTO: wanted.RTO, Outages: known.Outages, Unread: known.Unread,
				Budget: availability.BudgetOf(wanted, known.Since, known.Until, known.Outages)}
			if !known.Since.IsZero() {
				q := availability.Question{From: known.Since, To: known.Until, By: spans, Objective: r.Objective}
				r.Periods = availability.Compute(q, known.Outages)
				q.By = availability.Whole
				r.Whole = availability.Compute(q, known.Outages)[0]
			}
			if !format.forPeople() {
				return format.write(a.Stdout, r)
			}
			return writeAvailability(a.Stdout, &r)
		},
	}
	flags.add(cmd)
	format.flag(cmd)
	cmd.Flags().StringVar(&by, "by", string(availability.Monthly), "`span` of a line: day, month or year")
	cmd.Flags().StringVar(&objective, "objective", "", "`percent` that the cluster is to be available (default: the settings')")
	return cmd
}

// parseObjective reads a percentage; zero: none is given.
func parseObjective(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	share, err := availability.ParsePercent(text)
	if err != nil {
		return 0, usage("--objective %v", err)
	}
	return share, nil
}

func askAvailability(ctx context.Context, c *client.Client) (known api.Availability, err error) {
	st, err := c.Status(ctx)
	if err != nil {
		return known, err
	}
	ctx, cancel := context.WithTimeout(ctx, client.AskTimeout)
	defer cancel()
	text, err := c.Ask(ctx, http.MethodGet, c.Answered(st), "/availability", nil)
	if err != nil {
		return known, err
	}
	if err := json.Unmarshal(text, &known); err != nil {
		return known, fmt.Errorf("read the availability: %w", err)
	}
	return known, nil
}

// shownOutages is how many of the newest are listed for people.
const shownOutages = 20

func writeAvailability(to io.Writer, r *availabilityReport) error {
	if len(r.Periods) == 0 {
		_, err := fmt.Fprintln(to, "nothing is known yet: the cluster has no history")
		return err
	}
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	header := "period\tavailable\toutages\tdown\tplanned\tlongest\tunknown"
	if r.Objective > 0 {
		header += "\tbudget left"
	}
	fmt.Fprintln(t, header)
	for _, p := range append(r.Periods, r.Whole) {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s", p.Name, percent(p.Availability), p.Outages, length(p.Down), length(p.Planned), length(p.Longest), length(p.Unknown))
		if r.Objective > 0 {
			fmt.Fprintf(t, "\t%s", length(p.Budget))
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if w := r.Whole; w.Outages > 0 {
		fmt.Fprintf(to, "\nmean time between failures %s, to repair %s: %s without what was planned; %s\n", length(w.MTBF), length(w.MTTR), percent(w.ByMeans), nines(w))
	}
	if b := r.Budget; b != nil {
		fmt.Fprintf(to, "\nobjective %s %%: %s of the error budget of %d days is left, of %s\n", strconv.FormatFloat(r.Objective*100, 'g', 10, 64), length(b.Left), availability.BudgetDays, length(b.Total))
		if r.RTO > 0 {
			fmt.Fprintf(to, "outages longer than %s in that time: %d\n", length(r.RTO), b.TooLong)
		}
	}
	if r.Unread > 0 {
		fmt.Fprintf(to, "\n%s of the outages in Consul cannot be read: what was written there is in no figure\n", lines(r.Unread))
	}
	if len(r.Outages) == 0 {
		return nil
	}
	fmt.Fprintln(to)
	fmt.Fprintln(t, "from\tlength\tkind\tterm\tleader\tcause")
	for _, o := range r.Outages[max(len(r.Outages)-shownOutages, 0):] {
		kind := string(o.Kind)
		if o.Planned && o.Kind == availability.Restart {
			kind = "planned restart"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\n", o.From.Local().Format(screen.TimeWithZone), length(availability.Seconds(o.Took().Seconds())), kind, o.Term, o.Leader, o.Cause)
	}
	return t.Flush()
}

// percent is a share with as many digits as its nines need; nil: what nobody saw is not up.
func percent(known *float64) string {
	if known == nil {
		return "unknown"
	}
	share := *known
	if share >= 1 {
		return "100 %"
	}
	digits := 2
	if share > 0 {
		digits = min(max(int(-math.Log10(1-share)), 2), 8)
	}
	return strconv.FormatFloat(math.Floor(share*100*math.Pow10(digits))/math.Pow10(digits), 'f', digits, 64) + " %"
}

func nines(p availability.Period) string {
	n := p.Nines()
	if math.IsInf(n, 1) {
		return "no outage"
	}
	return strconv.FormatFloat(math.Floor(n*10)/10, 'f', 1, 64) + " nines"
}

// length is a time as people read it.
func length(s availability.Seconds) string {
	d := time.Duration(float64(s) * float64(time.Second))
	switch {
	case d == 0:
		return "-"
	case d.Abs() < 10*time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func lines(n int) string {
	if n == 1 {
		return "1 line"
	}
	return strconv.Itoa(n) + " lines"
}
