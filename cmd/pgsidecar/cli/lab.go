package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// newLabCommand returns `lab` and the commands under it.
func newLabCommand(a *Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run a whole cluster on this machine, to try it and to break it",
		Args:  needCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newLabUpCommand(a), newLabDownCommand(a), newLabStatusCommand(a))
	return cmd
}

// labDir is the lab's folder if the command line names none: one for each user,
// outside of folders that PostgreSQL's user may not enter.
func labDir(a *Process) string {
	return cmp.Or(a.Getenv("PGSIDECAR_LAB_DIR"), filepath.Join(os.TempDir(), "pgsidecar-lab-"+strconv.Itoa(os.Getuid())))
}

func dirFlag(a *Process, cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "", "the lab's `folder` (default $PGSIDECAR_LAB_DIR, else pgsidecar-lab-UID in the folder for temporary files)")
	cmd.PreRun = func(*cobra.Command, []string) { *dir = cmp.Or(*dir, labDir(a)) }
}

// labFlags adds what a new lab is made of.
func labFlags(cmd *cobra.Command, o *lab.Options) {
	f := cmd.Flags()
	f.IntVar(&o.Members, "members", 3, "`number` of members")
	f.IntVar(&o.ConsulServers, "consul-servers", 1, "`number` of Consul servers, 1 or 3")
	f.BoolVar(&o.Isolated, "isolated", false, "give each host a network namespace (needs root)")
	f.BoolVar(&o.PgBouncer, "pgbouncer", false, "run PgBouncer too")
	f.BoolVar(&o.Backup, "backup", false, "archive the log and make backups, by pgBackRest, to a folder of the lab")
	f.BoolVar(&o.Breakable, "breakable", false, "members with disks that can be filled (in memory) and an archive, Consul with ACLs: some drills ask for it (needs root)")
	f.IntVar(&o.Sites, "sites", 1, "`number` of sites, 1 or 2 (--sites alone: 2): the second has a Consul of its own and two members that follow the first's, 30 ms away, and a third Consul is the witness; means --isolated (needs root)")
	f.BoolVar(&o.Unwitnessed, "no-witness", false, "two sites without a third Consul as their witness")
	f.StringVar(&o.Mode, "mode", "quorum", "durability `mode`: quorum or async")
}

// labFault makes a usage error of what the command line or the machine is to
// blame for: nothing was started then.
func labFault(err error) error {
	if errors.Is(err, lab.ErrOption) || errors.Is(err, lab.ErrInUse) || errors.Is(err, programs.ErrMissing) ||
		errors.Is(err, lab.ErrNoLab) || errors.Is(err, programs.ErrNoPort) {
		return usage("%w", err)
	}
	return err
}

func newLabUpCommand(a *Process) *cobra.Command {
	var o lab.Options
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a lab, show it, break it by keys, and remove it at Ctrl-C",
		Long: `Start Consul, the members and HAProxy on this machine, show what they do while a
writer writes, break them at the press of a key, and remove all of it at q or
Ctrl-C. With --backup one key deletes the writer's table, and another restores the
cluster to just before. With --sites 2 a second cluster at another site follows the
first, and keys switch the site, cut the sites off from each other, and lose one.
With --detach the lab stays until "lab down".`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			o.Binary = exe
			return labUp(cmd.Context(), a, o)
		},
	}
	dirFlag(a, cmd, &o.Dir)
	labFlags(cmd, &o)
	cmd.Flags().BoolVar(&o.Detached, "detach", false, "return when the cluster is there, and leave it running")
	return cmd
}

// untilHangup returns a context that ends also when the terminal is closed or the
// connection to it is lost: a lab in the foreground is then removed as by Ctrl-C.
// Under nohup(1) it goes on.
func untilHangup(ctx context.Context) (context.Context, context.CancelFunc) {
	if signal.Ignored(syscall.SIGHUP) {
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, syscall.SIGHUP)
}

// labUp runs a lab in the foreground until the context ends, or detached.
func labUp(ctx context.Context, a *Process, o lab.Options) (err error) {
	ctx, stop := untilHangup(ctx)
	defer stop()
	l, err := newLab(o)
	if err != nil {
		return labFault(err)
	}
	keep := false
	defer func() {
		if keep {
			return
		}
		fmt.Fprintln(a.Stderr, "removing the lab")
		err = errors.Join(err, takeDown(ctx, l))
	}()
	err = raise(ctx, a, l)
	switch {
	case errors.Is(err, lab.ErrInUse):
		keep = true // it is not ours
		return labFault(err)
	case err != nil && ctx.Err() != nil:
		return nil // Ctrl-C
	case err != nil && o.Detached:
		keep = true
		return fmt.Errorf("%w\n(the folder is left for you to look at; pgsidecar lab down --dir %s removes it)", err, o.Dir)
	case err != nil:
		return err
	}
	if err := describe(a.Stdout, l); err != nil {
		return err
	}
	if o.Detached {
		keep = true
		return nil
	}
	return watchLab(ctx, a, l)
}

// readyTimeout is how long a new cluster may take: initdb and two clones on a
// slow, busy machine.
const readyTimeout = 3 * time.Minute

// raise starts a lab and waits until its cluster is whole.
func raise(ctx context.Context, a *Process, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	progress := func(what string) { fmt.Fprintln(a.Stderr, what) }
	if err := l.Up(ctx, progress); err != nil {
		return err
	}
	progress("waiting until the cluster is whole")
	return l.WaitReady(ctx)
}

// takeDown removes a lab, also when the context has ended.
func takeDown(ctx context.Context, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return l.Down(ctx)
}

// newLab lays a lab out as the flags say.
func newLab(o lab.Options) (*lab.Lab, error) {
	o.Isolated = o.Isolated || o.Sites == 2
	return lab.New(o)
}

// describe says where everything is.
func describe(w io.Writer, l *lab.Lab) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, site := range l.Sites() {
		if l.Other() != nil {
			fmt.Fprintf(t, "site\t%s\n", site.Name())
		}
		describeSite(t, site.Plan())
	}
	return t.Flush()
}

func describeSite(t io.Writer, p *lab.Plan) {
	app := p.App()
	fmt.Fprintf(t, "folder\t%s\n", p.Dir)
	fmt.Fprintf(t, "primary, by HAProxy\t%s\n", app.PrimaryAddress())
	fmt.Fprintf(t, "replicas, by HAProxy\t%s\n", app.ReplicasAddress())
	if app.Ports.Pool != 0 {
		fmt.Fprintf(t, "primary, by PgBouncer\t%s\n", app.PoolAddress())
	}
	fmt.Fprintf(t, "Consul\thttp://%s\n", app.HTTPAddress())
	fmt.Fprintf(t, "Consul's DNS\t%s (primary.%s.service.consul)\n", app.DNSAddress(), p.Cluster)
	fmt.Fprintf(t, "superuser's password\t%s\n", p.PasswordFile(lab.SuperuserRole))
	for _, m := range p.Members() {
		fmt.Fprintf(t, "%s\tPostgreSQL %s, API %s, log %s\n", m.Name, m.PostgresAddress(), m.APIAddress(), filepath.Join(m.Dir, "sidecar.log"))
	}
	inside := ""
	if p.Isolated {
		inside = "ip netns exec " + app.Namespace + " "
	}
	fmt.Fprintf(t, "to look at it\t%spgsidecar status --config %s\n", inside, filepath.Join(p.Members()[0].Dir, "pg.hcl"))
	if p.Isolated {
		fmt.Fprintf(t, "to get in\tip netns exec %s bash\n", app.Namespace)
	}
}

func newLabDownCommand(a *Process) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop a lab and remove all that it made",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(dir, nil)
			if err != nil {
				return labFault(err)
			}
			return takeDown(cmd.Context(), l)
		},
	}
	dirFlag(a, cmd, &dir)
	return cmd
}

func newLabStatusCommand(a *Process) *cobra.Command {
	var dir string
	var format output
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what runs in a lab",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(dir, nil)
			if err != nil {
				return labFault(err)
			}
			s, err := l.Status(cmd.Context())
			if err != nil {
				return err
			}
			if !format.forPeople() {
				return format.write(a.Stdout, s)
			}
			if err := describe(a.Stdout, l); err != nil {
				return err
			}
			_, err = io.WriteString(a.Stdout, "\n"+labTable(s)+labSites(cmd.Context(), l))
			return err
		},
	}
	dirFlag(a, cmd, &dir)
	format.flag(cmd)
	return cmd
}

// labTable shows the hosts, one a line.
func labTable(s lab.Status) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "host\trole\thealth\truns")
	for _, h := range s.Hosts {
		role := string(h.Kind)
		if h.Kind == lab.KindMember {
			role = cmp.Or(strings.Join(h.Tags, ","), "-")
		}
		var runs []string
		for _, p := range []lab.Program{lab.Consul, lab.Sidecar, lab.Guard, lab.Postgres, lab.HAProxy, lab.Proxy, lab.PgBouncer} {
			if pid, ok := h.PIDs[p]; ok {
				runs = append(runs, fmt.Sprintf("%s(%d)", p, pid))
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", h.Name, role, cmp.Or(h.Health, "-"), strings.Join(runs, " "))
	}
	_ = t.Flush() // a strings.Builder takes everything
	if s.Other != nil {
		return fmt.Sprintf("site %s\n%s\nsite %s\n%s", s.Site, b.String(), s.Other.Site, labTable(*s.Other))
	}
	return b.String()
}

// isTerminal reports whether what is written goes to a terminal: no file, pipe, or
// device like /dev/null.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}
