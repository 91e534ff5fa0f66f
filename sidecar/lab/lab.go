package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// Options say what a lab is made of.
type Options struct {
	// Dir is the folder that holds the whole lab. It must not exist, be empty,
	// or hold a lab that was killed; its parents must let PostgreSQL's user
	// through.
	Dir string
	// Binary is pgsidecar. Empty: only Consul and HAProxy are started, for
	// tests of the lab, or the members are run by Agent.
	Binary string
	Agent  Agent // runs the members in pgsidecar's place; nil: none does
	// Consul is the path of consul; empty: found (package programs).
	Consul      string
	PostgresBin string // directory of PostgreSQL's programs; empty: the newest's

	Members       int    // 0: 3
	ConsulServers int    // 1 or 3; 0: 1
	Mode          string // durability, quorum or async; empty: quorum
	Standbys      int    // that hold each commit; 0: 1
	WALSegmentMB  int    // 0: pgsidecar's default
	Isolated      bool   // a network namespace for each host; needs root
	PgBouncer     bool   // run PgBouncer too
	Backup        bool   // make backups, by pgBackRest, to a folder of the lab
	// Sites is the number of sites, 1 or 2: the second has a Consul of its own, and at most
	// two members, whose cluster follows the first's; 30 ms are between them; and a third
	// Consul is their witness, unless Unwitnessed. Isolated. 0: 1.
	Sites       int
	Unwitnessed bool
	Other       *Plan // the lab of the other site, whose cluster this one follows, with its secrets; nil: there is none
	// Breakable gives the members disks that can be filled, an archive that can
	// be blocked, and Consul ACLs whose token can be revoked; needs root.
	Breakable bool
	// Detached says that nobody stays to take the lab down: only Down does, and
	// the next Up refuses.
	Detached bool

	Log hclog.Logger // nil: none
}

// Errors of a lab.
var (
	// ErrOption is returned by New for options that cannot be, before anything
	// is changed.
	ErrOption = errors.New("impossible lab")
	// ErrInUse is returned by Up for a folder that holds something else, or a
	// lab that runs.
	ErrInUse = errors.New("folder is in use")
	// ErrNoLab is returned by Open when there is no lab in the folder.
	ErrNoLab = errors.New("no lab")
)

// Lab is one lab: to be made (New) or already there (Open). Its methods may be
// called from several goroutines, but for Up and Down.
type Lab struct {
	plan     *Plan
	detached bool
	agent    Agent // nil: pgsidecar runs the members
	other    *Lab  // the other site; nil: there is one site
	log      hclog.Logger
	reap     sync.WaitGroup // one goroutine for each process started here

	mu     sync.Mutex
	relays map[string]*relay // by host
}

// New checks the options and lays the lab out. It starts and writes nothing. It
// returns ErrOption or programs.ErrMissing.
func New(o Options) (*Lab, error) {
	p := &Plan{Version: 1, Isolated: o.Isolated, Breakable: o.Breakable, Cluster: "pg", Prefix: "pgsidecar", Binary: o.Binary,
		Consul: o.Consul, Mode: cmp.Or(o.Mode, "quorum"), Standbys: cmp.Or(o.Standbys, 1), Logged: Logged{WALSegmentMB: o.WALSegmentMB}}
	servers, members := cmp.Or(o.ConsulServers, 1), cmp.Or(o.Members, 3)
	switch {
	case o.Dir == "":
		return nil, fmt.Errorf("%w: no folder", ErrOption)
	case servers != 1 && servers != 3:
		return nil, fmt.Errorf("%w: %d Consul servers; 1 or 3", ErrOption, servers)
	case o.checkSites() != nil:
		return nil, o.checkSites()
	case members < 1 || members > 9:
		return nil, fmt.Errorf("%w: %d members; 1 to 9", ErrOption, members)
	case p.Mode != "quorum" && p.Mode != "async":
		return nil, fmt.Errorf("%w: durability mode %q; quorum or async", ErrOption, p.Mode)
	case o.Binary != "" && o.Agent != nil:
		return nil, fmt.Errorf("%w: members run by two programs", ErrOption)
	case o.Breakable && os.Geteuid() != 0:
		return nil, fmt.Errorf("%w: disks that can be filled need root", ErrOption)
	case o.Breakable && o.Binary == "":
		return nil, fmt.Errorf("%w: without members there is nothing to break", ErrOption)
	case o.Breakable && o.Backup:
		return nil, fmt.Errorf("%w: members that archive twice, to pgBackRest and to what can be blocked", ErrOption)
	case o.Isolated && os.Geteuid() != 0:
		return nil, fmt.Errorf("%w: network namespaces need root; without --isolated the lab runs on loopback as any user", ErrOption)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("find the lab's folder: %w", err)
	}
	p.Dir = dir
	if err := p.findPrograms(o); err != nil {
		return nil, err
	}
	if p.ID, err = newID(); err != nil {
		return nil, err
	}
	p.addHosts(servers, members, nil)
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	l := &Lab{plan: p, detached: o.Detached, agent: o.Agent, log: o.Log, relays: map[string]*relay{}}
	if o.Sites == 2 {
		return l, l.addSite(!o.Unwitnessed)
	}
	if err := p.givePorts(); err != nil {
		return nil, err
	}
	p.follow(o.Other)
	return l, nil
}

// findPrograms fills in the programs' paths; PostgreSQL never runs as root.
func (p *Plan) findPrograms(o Options) (err error) {
	if p.Consul == "" {
		if p.Consul, err = programs.Consul(); err != nil {
			return err
		}
	}
	if p.HAProxy, err = programs.HAProxy(); err != nil {
		return err
	}
	if p.PostgresBin, err = o.postgresBin(); err != nil {
		return err
	}
	if o.PgBouncer {
		if p.PgBouncer, err = programs.PgBouncer(); err != nil {
			return err
		}
	}
	if o.Backup {
		if _, err = programs.PgBackRest(); err != nil {
			return err
		}
		p.Backup = true
	}
	if o.Isolated {
		for _, name := range []string{"ip", "tc"} {
			if _, err := exec.LookPath(name); err != nil {
				return fmt.Errorf("%w: %s (apt-get install iproute2)", programs.ErrMissing, name)
			}
		}
	}
	if os.Geteuid() == 0 {
		p.User = "postgres"
	}
	p.Hangable = o.Breakable && canMountImages()
	for _, path := range []string{p.Consul, p.Binary} {
		if _, err := os.Stat(path); path != "" && err != nil {
			return fmt.Errorf("%w: %w", programs.ErrMissing, err)
		}
	}
	return nil
}

// Open returns the lab that is in the folder, running or not. It returns
// ErrNoLab.
func Open(dir string, log hclog.Logger) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the lab's folder: %w", err)
	}
	p, err := loadPlan(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoLab, dir)
	}
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = hclog.NewNullLogger()
	}
	l := &Lab{plan: p, log: log, relays: map[string]*relay{}}
	return l, l.openSite()
}

// Plan returns the lab's layout. It must not be changed.
func (l *Lab) Plan() *Plan { return l.plan }

// Up makes the lab and returns when Consul has a leader and all programs are
// started; WaitReady then waits for the cluster. What a killed lab left in the
// folder is removed first. It returns ErrInUse. When it fails, what it made is
// there still: the caller calls Down (or looks at the logs first).
func (l *Lab) Up(ctx context.Context, progress func(string)) error {
	for _, site := range l.Sites() {
		if err := site.claim(ctx); err != nil {
			return err
		}
	}
	if l.plan.Isolated {
		progress("making the network")
		if err := l.makeNetworks(ctx, progress); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		what string
		do   func(*Lab) error
	}{
		{"starting Consul", func(site *Lab) error { return site.startAgents() }},
		{"", func(site *Lab) error { return site.waitConsul(ctx) }},
		{"starting HAProxy", func(site *Lab) error { return site.startApp(ctx) }},
		{l.startingMembers(), func(site *Lab) error { return site.startMembers(ctx) }},
	} {
		if step.what != "" {
			progress(step.what)
		}
		for _, site := range l.Sites() {
			if err := step.do(site); err != nil {
				return err
			}
		}
	}
	if l.other != nil && l.hasMembers() {
		progress("telling each site of the other")
		return l.nameOther(ctx)
	}
	return nil
}

// claim makes the lab's folder ours: cleaned of a dead lab, with plan, secrets
// and configuration in it.
func (l *Lab) claim(ctx context.Context) error {
	p := l.plan
	unlock, err := lockFolder(p.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := clearDead(ctx, p.Dir); err != nil {
		return err
	}
	if err := l.record(entry{What: madeLab}); err != nil {
		return err
	}
	if err := p.save(); err != nil {
		return err
	}
	owner := entry{What: detached}
	if !l.detached {
		started, err := startTime(os.Getpid())
		if err != nil {
			return err
		}
		owner = entry{What: ownedBy, PID: os.Getpid(), Started: started}
	}
	if err := l.record(owner); err != nil {
		return err
	}
	if err := l.writeSecrets(); err != nil {
		return err
	}
	if p.Breakable {
		if err := l.makeArchive(); err != nil {
			return err
		}
	}
	if p.Backup {
		if err := l.makeRepository(); err != nil {
			return err
		}
	}
	for _, h := range p.Hosts {
		if err := l.makeHostFolder(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// RepositoryDir is where the lab's backups and archive are.
func (p *Plan) RepositoryDir() string { return filepath.Join(p.Dir, "repository") }

func (l *Lab) makeRepository() error {
	if err := os.MkdirAll(l.plan.RepositoryDir(), 0o750); err != nil {
		return fmt.Errorf("make the repository: %w", err)
	}
	return l.own(l.plan.RepositoryDir())
}

// clearDead removes a lab that was killed from the folder. It returns ErrInUse
// for one that is not dead, and for what is no lab at all.
func clearDead(ctx context.Context, dir string) error {
	entries, err := readJournal(dir)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		names, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("look into the lab's folder: %w", err)
		}
		for _, name := range names {
			if name.Name() != lockName && name.Name() != filepath.Base(journalPath(dir)) {
				return fmt.Errorf("%w: %s holds something that is no lab (%s)", ErrInUse, dir, name.Name())
			}
		}
		return nil
	}
	old, err := Open(dir, nil)
	if errors.Is(err, ErrNoLab) {
		// Killed between the journal's first line and the plan: nothing was
		// made.
		return os.Remove(journalPath(dir))
	}
	if err != nil {
		return err
	}
	if why := old.aliveFor(entries); why != "" {
		return fmt.Errorf("%w: a lab runs in %s (%s); pgsidecar lab down --dir %s", ErrInUse, dir, why, dir)
	}
	return old.clean(ctx)
}

// aliveFor says why the lab is not to be cleaned away, or nothing.
func (l *Lab) aliveFor(entries []entry) string {
	for _, e := range entries {
		switch e.What {
		case ownedBy:
			if runs(e) && e.PID != os.Getpid() {
				return fmt.Sprintf("shown by process %d", e.PID)
			}
		case detached:
			for _, h := range l.plan.Hosts {
				found, err := l.processes(h)
				for _, p := range found {
					p.close()
				}
				if err != nil || len(found) > 0 {
					return "detached"
				}
			}
		}
	}
	return ""
}

// Down stops everything and removes the lab with its folder. It may be called
// in any state, also again after it failed or was killed.
func (l *Lab) Down(ctx context.Context) error {
	unlock, err := lockFolder(l.plan.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.clean(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(l.plan.Dir); err != nil {
		return fmt.Errorf("remove the lab's folder: %w", err)
	}
	for _, site := range l.Sites() {
		site.reap.Wait()
	}
	return nil
}

// clean unmakes what the journal names, and empties the folder; the journal
// goes last.
func (l *Lab) clean(ctx context.Context) error {
	if err := l.cleanOther(ctx); err != nil {
		return err
	}
	l.closeRelays()
	entries, err := readJournal(l.plan.Dir)
	if err != nil {
		return err
	}
	thawDisks(entries) // what waits for a hung disk cannot be killed
	// Sidecars and guards first, or they would take what follows for a fault.
	for _, h := range l.plan.Members() {
		for _, program := range []Program{Sidecar, Guard} {
			if err := l.Kill(h.Name, program); err != nil && !errors.Is(err, ErrNotRunning) {
				return err
			}
		}
	}
	for _, h := range l.plan.Hosts {
		if err := l.stopPostgres(ctx, h); err != nil {
			return err
		}
		if err := l.killAll(ctx, h, 0); err != nil {
			return err
		}
	}
	for _, name := range namespaces(entries) {
		if err := removeNamespace(ctx, name); err != nil {
			return err
		}
	}
	if err := unmountDisks(entries); err != nil {
		return err
	}
	names, err := os.ReadDir(l.plan.Dir)
	if err != nil {
		return fmt.Errorf("look into the lab's folder: %w", err)
	}
	keep := []string{lockName, filepath.Base(l.plan.path()), filepath.Base(journalPath(l.plan.Dir))}
	for _, name := range names {
		if !slices.Contains(keep, name.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(l.plan.Dir, name.Name())))
		}
	}
	// The plan is of no use without the journal, and a journal without a plan
	// says that nothing is there.
	for _, path := range []string{l.plan.path(), journalPath(l.plan.Dir)} {
		if gone := os.Remove(path); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

const lockName = "lock"

// lockFolder makes the folder and locks it against another Up or Down.
func lockFolder(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the lab's folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the lab's folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: another `lab up` or `lab down` is at work in %s", ErrInUse, dir)
	}
	return func() { f.Close() }, nil
}

// makeHostFolder makes the host's folder and its programs' configuration.
func (l *Lab) makeHostFolder(ctx context.Context, h Host) error {
	if err := os.MkdirAll(h.Dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of %s: %w", h.Name, err)
	}
	if err := l.writeConsulConfig(h); err != nil {
		return err
	}
	switch h.Kind {
	case KindMember:
		return l.writeMemberConfig(ctx, h)
	case KindApp:
		return l.writeAppConfig(h)
	}
	return nil
}

// own gives a file or folder to PostgreSQL's user, when root makes it.
func (l *Lab) own(path string) error {
	if l.plan.User == "" {
		return nil
	}
	u, err := user.Lookup(l.plan.User)
	if err != nil {
		return fmt.Errorf("look up user %s: %w", l.plan.User, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return fmt.Errorf("look up user %s: %w", l.plan.User, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return fmt.Errorf("look up user %s: %w", l.plan.User, err)
	}
	return os.Chown(path, uid, gid)
}

// downTimeout is how long one PostgreSQL may take to stop at once.
const downTimeout = 5 * time.Second
