package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// Outcome is what a scenario expects of the role of primary.
type Outcome string

// The outcomes.
const (
	Moves  Outcome = "moves"  // another server, or the same on a new timeline, is primary
	Stays  Outcome = "stays"  // the primary keeps its role
	Either Outcome = "either" // both are right
)

// Scenario is one fault, what it is to show, and how it is undone.
type Scenario struct {
	Name     string
	Why      string // what it stands for, in an operator's words
	Isolated bool   // it cuts links, so it needs an isolated lab
	// Breakable says that it fills disks, blocks the archive or revokes tokens,
	// so it needs a lab made for that.
	Breakable bool
	Hangs     bool // it lets a disk hang, so it needs a lab that can (lab.Plan.Hangable)
	Sites     bool // it is of two sites
	Witness   bool // who have a witness
	Split     bool // who have none, and both take writes beside each other
	Servers   int  // of Consul that it needs at least; 0: any number
	// Away says that a member is away while writes are to go on: the others must
	// be enough for a commit.
	Away   bool
	Expect Outcome
	// NoDNS says that Consul's DNS may not answer while the fault lasts, so that
	// way is not waited for before the fault is undone. Its pause counts.
	NoDNS bool
	// Unheard is the site whose clients the fault keeps from any primary, or from any new one:
	// they are not waited for before the fault is undone, and their pause does not count; nil:
	// there is none.
	Unheard func(c Cast) *lab.Lab
	// Catalog says that Consul's catalog is put back too, with the tag of an earlier
	// primary: DNS may name two until the leader has taken it away (takenBack).
	Catalog bool
	// Replays says that all of Consul's servers start anew, and replay their log: an agent
	// may take a tag over from then, so that DNS names an earlier primary too until its
	// member has put that right (takenBack).
	Replays bool
	// Hold is how long the fault lasts at least; 0: until writes go on.
	Hold  time.Duration
	Fault func(ctx context.Context, c Cast) error
	// Undo brings back what the fault took; nil: nothing to do. It is called
	// also after a drill that failed, and may find things whole.
	Undo func(ctx context.Context, c Cast) error
	// Check looks, while the fault lasts and writes go on, whether it did what
	// its name says; nil: the writes tell.
	Check func(ctx context.Context, c Cast) error
}

// Errors of a lab that is too small for a scenario.
var (
	// ErrServers: it needs more Consul servers.
	ErrServers = errors.New("too few Consul servers (lab up --consul-servers 3)")
	// ErrMembers: with one member away no commit would be acknowledged.
	ErrMembers = errors.New("too few members: with one away, no commit would be acknowledged (lab up --members 3)")
	// ErrWitness: the sites have no witness, and ErrWitnessed: they have one.
	ErrWitness   = errors.New("the sites have no witness (lab up --sites 2, without --no-witness)")
	ErrWitnessed = errors.New("the sites have a witness, which keeps one of them from the writes (lab up --sites 2 --no-witness)")
)

// Possible returns why a lab cannot play the scenario, or nil.
func (s Scenario) Possible(p *lab.Plan) error {
	switch {
	case s.Isolated && !p.Isolated:
		return lab.ErrNotIsolated
	case s.Breakable && !p.Breakable:
		return lab.ErrNotBreakable
	case s.Hangs && !p.Hangable:
		return lab.ErrNotHangable
	case s.Sites && p.Site == nil:
		return lab.ErrOneSite
	case s.Witness && !witnessed(p):
		return ErrWitness
	case s.Split && witnessed(p):
		return ErrWitnessed
	case s.Servers > len(p.Servers()):
		return ErrServers
	case s.Away && p.Mode == string(ha.ModeQuorum) && len(p.Members()) < p.Standbys+2:
		return ErrMembers
	}
	return nil
}

func witnessed(p *lab.Plan) bool {
	_, is := p.Witness()
	return is
}

// Cast is who plays which part when the fault is injected.
type Cast struct {
	Lab      *lab.Lab
	Primary  string
	Replicas []string
	// Sites takes what the faults of two sites say; the site that takes the writes when the
	// fault is injected is Lab.
	Sites *SitesReport
}

// ErrNoScenario is returned for a name that no scenario has.
var ErrNoScenario = errors.New("no such scenario")

// Find returns the scenario of that name, or ErrNoScenario.
func Find(name string) (Scenario, error) {
	for _, s := range Scenarios() {
		if s.Name == name {
			return s, nil
		}
	}
	return Scenario{}, fmt.Errorf("%w: %q", ErrNoScenario, name)
}

// Scenarios returns all scenarios, from the smallest fault to the largest.
func Scenarios() []Scenario {
	return slices.Concat(plannedScenarios(), processScenarios(), byHandScenarios(), hostScenarios(), linkScenarios(), diskScenarios(), consulScenarios(), keyScenarios(), siteScenarios())
}

func plannedScenarios() []Scenario {
	return []Scenario{
		{
			Name: "switchover", Why: "the primary is asked to hand over, as pgsidecar switchover does", Expect: Moves,
			Fault: func(ctx context.Context, c Cast) error {
				return c.Lab.Change(ctx, c.Primary, "/switchover", []byte(`{"leader":"`+c.Primary+`"}`))
			},
		},
		{
			Name: "terminated", Why: "the primary's sidecar is told to stop (SIGTERM), as for a reboot: it hands over first", Away: true, Expect: Moves,
			Fault: func(_ context.Context, c Cast) error { return c.Lab.Signal(c.Primary, lab.Sidecar, syscall.SIGTERM) },
			Undo: func(ctx context.Context, c Cast) error {
				if err := c.Lab.Wait(ctx, c.Primary, lab.Sidecar); err != nil {
					return err
				}
				// One that has ended may be listed for a moment still.
				if _, err := waitUntil(ctx, func() (int, error) {
					pid, err := c.Lab.PID(c.Primary, lab.Sidecar)
					return pid, ignoreAbsent(err)
				}, func(pid int) bool { return pid == 0 }); err != nil {
					return fmt.Errorf("wait for the end of the sidecar: %w", err)
				}
				return startSidecar(ctx, c)
			},
		},
	}
}

func processScenarios() []Scenario {
	return []Scenario{
		{
			Name: "postgres-killed", Why: "PostgreSQL crashes: its postmaster is killed with SIGKILL", Expect: Moves,
			Fault: func(_ context.Context, c Cast) error { return c.Lab.Kill(c.Primary, lab.Postgres) },
		},
		{
			Name: "member-killed", Why: "sidecar, guard and PostgreSQL are killed together; Consul's agent lives", Away: true, Expect: Moves,
			Fault: func(ctx context.Context, c Cast) error {
				return kill(ctx, c, c.Primary, lab.Sidecar, lab.Guard, lab.Postgres)
			},
			Undo: startSidecar,
		},
		{
			Name: "sidecar-restarted", Why: "the sidecar is killed, and started again by its supervisor half a second later", Expect: Stays,
			Hold: 3 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				if err := kill(ctx, c, c.Primary, lab.Sidecar); err != nil {
					return err
				}
				sleep(ctx, 500*time.Millisecond)
				return startAbsent(ctx, c, c.Primary, lab.Sidecar)
			},
		},
		{
			Name: "sidecar-killed", Why: "the sidecar is killed and stays away", Away: true, Expect: Moves,
			Fault: func(ctx context.Context, c Cast) error { return kill(ctx, c, c.Primary, lab.Sidecar) },
			Undo:  startSidecar,
		},
		{
			Name: "sidecar-stopped", Why: "the sidecar hangs (SIGSTOP); its guard does not", Away: true, Expect: Moves,
			Fault: func(_ context.Context, c Cast) error { return c.Lab.Signal(c.Primary, lab.Sidecar, syscall.SIGSTOP) },
			Undo: func(_ context.Context, c Cast) error {
				return ignoreAbsent(c.Lab.Signal(c.Primary, lab.Sidecar, syscall.SIGCONT))
			},
		},
		{
			Name: "postgres-stopped", Why: "PostgreSQL hangs: all of its processes are stopped (SIGSTOP)", Away: true, Expect: Moves,
			Fault: func(_ context.Context, c Cast) error { return c.Lab.SignalPostgres(c.Primary, syscall.SIGSTOP) },
			Undo:  func(_ context.Context, c Cast) error { return c.Lab.SignalPostgres(c.Primary, syscall.SIGCONT) },
		},
		{
			Name: "guard-killed", Why: "the guard is killed; its server ends with it", Expect: Moves,
			Fault: func(_ context.Context, c Cast) error { return c.Lab.Kill(c.Primary, lab.Guard) },
		},
		{
			Name: "host-paused", Why: "the primary's host stands still for some seconds, as a virtual machine does, and goes on", Away: true, Expect: Moves,
			Hold:  8 * time.Second,
			Fault: func(ctx context.Context, c Cast) error { return c.Lab.SignalHost(ctx, c.Primary, syscall.SIGSTOP) },
			Undo:  func(ctx context.Context, c Cast) error { return c.Lab.SignalHost(ctx, c.Primary, syscall.SIGCONT) },
		},
		{
			Name: "standby-killed", Why: "a replica's sidecar, guard and PostgreSQL are killed", Away: true, Expect: Stays, Hold: 3 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				return kill(ctx, c, c.Replicas[0], lab.Sidecar, lab.Guard, lab.Postgres)
			},
			Undo: func(ctx context.Context, c Cast) error { return startAbsent(ctx, c, c.Replicas[0], lab.Sidecar) },
		},
		{
			Name: "haproxy-killed", Why: "the load balancer crashes, and is started again", Expect: Stays, Hold: 2 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				app := c.Lab.Plan().App().Name
				if err := kill(ctx, c, app, lab.HAProxy); err != nil {
					return err
				}
				return startAbsent(ctx, c, app, lab.HAProxy)
			},
		},
	}
}

func startSidecar(ctx context.Context, c Cast) error {
	return startAbsent(ctx, c, c.Primary, lab.Sidecar)
}

// kill kills programs of a host together, and returns when they are gone.
func kill(ctx context.Context, c Cast, host string, all ...lab.Program) error {
	if err := c.Lab.Kill(host, all...); err != nil {
		return err
	}
	return gone(ctx, c, host, all...)
}

// goneTimeout is how long a killed process may take to end.
const goneTimeout = 30 * time.Second

// gone waits for the end of programs that were killed, also when the caller has given
// up: what undoes the fault starts what does not run, and one that is yet to end
// still does.
func gone(ctx context.Context, c Cast, host string, all ...lab.Program) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goneTimeout)
	defer cancel()
	var errs []error
	for _, program := range all {
		errs = append(errs, c.Lab.Wait(ctx, host, program))
	}
	return errors.Join(errs...)
}

// startAbsent starts a program unless it runs.
func startAbsent(ctx context.Context, c Cast, host string, program lab.Program) error {
	if _, err := c.Lab.PID(host, program); !errors.Is(err, lab.ErrNotRunning) {
		return err
	}
	return c.Lab.Start(ctx, host, program)
}

func ignoreAbsent(err error) error {
	if errors.Is(err, lab.ErrNotRunning) {
		return nil
	}
	return err
}
