package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// labView is the live view of a lab: what runs, how writing goes, what has
// happened, and keys to break things. The goroutine of show owns it.
type labView struct {
	app     *Process
	lab     *lab.Lab
	beat    *drill.Heartbeat
	started time.Time
	hosts   lab.Status
	// clusters are the sites', each as the last member said that answered; nil: none has.
	clusters []*api.Status
	rates    []int     // acknowledged writes, one a second, the newest last
	pauses   time.Time // those that ended until here are known
	primary  string
	events   []string
	// accident is what the keys d and r work on; nil: nothing is deleted.
	accident atomic.Pointer[accident]
}

const (
	viewInterval = time.Second
	viewEvents   = 9                      // as many are shown
	viewSeconds  = 60                     // of rates
	viewPause    = 500 * time.Millisecond // a shorter one is no event of its own
)

// sight is what a look at the lab has shown.
type sight struct {
	hosts    lab.Status
	clusters []*api.Status
	err      error
}

// watchLab shows the lab once a second, and does what the keys say, until the
// context ends or q is pressed.
func watchLab(ctx context.Context, a *Process, l *lab.Lab) error {
	beat, err := drill.NewHeartbeat(ctx, l)
	if err != nil {
		return err
	}
	defer beat.Stop()
	single, restore := singleKeys(a.Stdin)
	defer restore()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys, sights, done := make(chan string), make(chan sight), make(chan string)
	go readKeys(ctx, a.Stdin, single, keys)
	go lookAtLab(ctx, l, sights)
	v := &labView{app: a, lab: l, beat: beat, started: time.Now(), pauses: time.Now(), primary: beat.Primary()}
	v.say("the cluster is whole; press k to kill the primary's PostgreSQL")
	v.say("or: pgsidecar status --config " + filepath.Join(l.Plan().Members()[0].Dir, "pg.hcl"))
	if l.Plan().Backup {
		go v.firstBackup(ctx, done)
	}
	return v.show(ctx, keys, sights, done)
}

func (v *labView) show(ctx context.Context, keys <-chan string, sights <-chan sight, done chan string) error {
	tick := time.NewTicker(viewInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			v.measure()
		case s := <-sights:
			if s.err != nil {
				return s.err
			}
			v.hosts, v.clusters = s.hosts, s.clusters
		case what := <-done:
			v.say(what)
		case key, ok := <-keys:
			if !ok {
				keys = nil // nobody is there to press any; Ctrl-C ends it
				continue
			}
			if key == "q" {
				return nil
			}
			v.press(ctx, key, done)
		}
		if v.hosts.ID != "" {
			v.draw()
		}
	}
}

// measure takes the last second into account.
func (v *labView) measure() {
	b := v.beat.Beat(v.pauses)
	v.rates = append(v.rates, b.Writes)
	v.rates = v.rates[max(0, len(v.rates)-viewSeconds):]
	var longest drill.Pause
	for _, p := range b.Pauses {
		v.pauses = p.To
		if p.Length() > longest.Length() {
			longest = p
		}
	}
	pause := longest.Length().Round(time.Millisecond)
	switch {
	case b.Primary != v.primary && v.primary != "":
		v.sayAt(longest.To, fmt.Sprintf("%s is the primary now, on timeline %d; writes had paused for %v", b.Primary, b.Timeline, pause))
	case pause >= viewPause:
		v.sayAt(longest.To, fmt.Sprintf("writes go on, after a pause of %v", pause))
	}
	v.primary = b.Primary
}

func (v *labView) say(what string) { v.sayAt(time.Now(), what) }

func (v *labView) sayAt(at time.Time, what string) {
	line := at.Format("15:04:05") + "  " + what
	v.events = append(v.events, line)
	v.events = v.events[max(0, len(v.events)-viewEvents):]
	if !isTerminal(v.app.Stdout) {
		fmt.Fprintln(v.app.Stdout, line) // a log, where there is no screen
	}
}

// draw shows everything on a terminal, in 80 columns.
func (v *labView) draw() {
	if !isTerminal(v.app.Stdout) {
		return
	}
	p := v.lab.Plan()
	var b strings.Builder
	fmt.Fprintf(&b, "\x1b[1mpgsidecar lab\x1b[0m · cluster %s · %s · up %s\n\n", p.Cluster, p.Dir, time.Since(v.started).Truncate(time.Second))
	v.drawMembers(&b)
	way := "through HAProxy (" + p.App().PrimaryAddress() + ")"
	if v.lab.Other() == nil {
		fmt.Fprintf(&b, "\n  DNS      primary.%s.service.consul: %s\n", p.Cluster, v.beat.DNS())
	} else {
		way = "from a third place, by the addresses of all members"
		b.WriteString("\n" + sitesWords(v.lab, v.clusters))
	}
	last := 0
	if len(v.rates) > 0 {
		last = v.rates[len(v.rates)-1]
	}
	fmt.Fprintf(&b, "  writes   %d/s %s, taken by %s\n", last, way, cmp.Or(v.primary, "nobody"))
	fmt.Fprintf(&b, "           %s\n", sparkline(v.rates))
	fmt.Fprintf(&b, "  by hand  superuser's password in %s\n           Consul's pages at http://%s/ui\n\n", p.PasswordFile(lab.SuperuserRole), p.App().HTTPAddress())
	for _, e := range v.events {
		fmt.Fprintf(&b, "  %s\n", e)
	}
	b.WriteString("\n" + v.keys())
	// Each line to its end, so that nothing of the last screen shows through, and
	// no flicker of an empty one.
	screen := "\x1b[H" + strings.ReplaceAll(b.String(), "\n", "\x1b[K\n") + "\x1b[J"
	_, _ = io.WriteString(v.app.Stdout, screen) // a terminal that is gone ends the process by SIGHUP
}

func (v *labView) keys() string {
	line := " " + key("k") + " kill PostgreSQL " + key("m") + " kill the member " + key("f") + " freeze it "
	if v.lab.Plan().Isolated {
		line += key("c") + " cut off "
	}
	if v.lab.Other() != nil {
		line += "\n\n " + siteKeys()
	}
	line += "\n\n " + key("s") + " switch over "
	if v.lab.Plan().Backup {
		line += key("d") + " delete a table " + key("r") + " restore it "
	}
	return line + key("h") + " heal all " + key("q") + " quit\n"
}

func key(k string) string { return "\x1b[7m " + k + " \x1b[0m" }

func (v *labView) drawMembers(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  MEMBER\tROLE\tIN CONSUL\tTIMELINE\tLAG\tRUNS")
	all := []*lab.Status{&v.hosts}
	if v.hosts.Other != nil {
		all = append(all, v.hosts.Other)
	}
	for i, hosts := range all {
		var cluster *api.Status
		if i < len(v.clusters) {
			cluster = v.clusters[i]
		}
		drawSite(t, hosts, cluster)
	}
	_ = t.Flush() // a strings.Builder takes everything
}

// drawSite draws the members of one site, as one of them said.
func drawSite(t io.Writer, hosts *lab.Status, cluster *api.Status) {
	known := map[string]api.MemberStatus{}
	leader := ""
	if cluster != nil {
		leader = cluster.Leader
		for _, m := range cluster.Members {
			known[m.Member] = m
		}
	}
	for _, h := range hosts.Hosts {
		if h.Kind != lab.KindMember {
			continue
		}
		m, heard := known[h.Name]
		role, timeline, lag := "-", "-", "-"
		_, alive := h.PIDs[lab.Sidecar]
		if heard && alive && (m.Link == "self" || m.Link == "up") {
			role = string(m.Role)
			if m.Position.Known() {
				timeline = fmt.Sprint(m.Position.TLI)
			}
			if h.Name != leader {
				lag = screen.LagWords(cluster, m)
			}
		}
		sign := " "
		if role == string(ha.RolePrimary) {
			sign = "*"
		}
		fmt.Fprintf(t, "%s %s\t%s\t%s\t%s\t%s\t%s\n", sign, h.Name, role, cmp.Or(strings.Join(h.Tags, ","), "-")+" "+h.Health, timeline, lag, runsWords(h))
	}
}

// runsWords names a member's programs that run.
func runsWords(h lab.HostStatus) string {
	all := []lab.Program{lab.Sidecar, lab.Guard, lab.Postgres, lab.Consul}
	var runs []string
	for _, p := range all {
		if _, ok := h.PIDs[p]; ok {
			runs = append(runs, string(p))
		}
	}
	if len(runs) == len(all) {
		return "all"
	}
	return cmp.Or(strings.Join(runs, " "), "nothing")
}

// sparkline draws numbers as bars of eight heights; none is a gap.
func sparkline(numbers []int) string {
	highest := 1
	for _, n := range numbers {
		highest = max(highest, n)
	}
	var b strings.Builder
	for _, n := range numbers {
		if n == 0 {
			b.WriteRune('·')
			continue
		}
		b.WriteRune([]rune("▁▂▃▄▅▆▇█")[n*7/highest])
	}
	return b.String()
}

// lookAtLab looks at the lab's processes, and asks the members for the
// cluster's status, again and again: both take a moment on a busy machine.
func lookAtLab(ctx context.Context, l *lab.Lab, to chan<- sight) {
	tick := time.NewTicker(viewInterval)
	defer tick.Stop()
	for {
		var s sight
		s.hosts, s.err = l.Status(ctx)
		for _, site := range l.Sites() {
			s.clusters = append(s.clusters, askLab(ctx, site))
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case to <- s:
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// askLab returns the status of the newest term that a member knows; nil if none
// answers.
func askLab(ctx context.Context, l *lab.Lab) *api.Status {
	dial, err := l.Dialer(l.Plan().App().Name)
	if err != nil {
		return nil
	}
	c := client.New(client.Options{Dial: dial})
	var best *api.Status
	for _, m := range l.Plan().Members() {
		ctx, cancel := context.WithTimeout(ctx, viewInterval/2)
		st, err := c.StatusOf(ctx, m.APIAddress())
		cancel()
		if err != nil {
			continue
		}
		if best == nil || st.Term > best.Term || st.Term == best.Term && st.Member == st.Leader {
			best = st
		}
	}
	return best
}

// press begins what a key says, to the primary. What came of it goes to done.
func (v *labView) press(ctx context.Context, key string, done chan<- string) {
	primary := v.beat.Primary()
	l := v.lab.SiteOf(primary)
	var what string
	var do func() error
	said := func(f func(context.Context) (string, error)) func() error {
		return func() (err error) { what, err = f(ctx); return err }
	}
	if (key == "d" || key == "r") && !l.Plan().Backup {
		v.say("that key needs backups: pgsidecar lab up --backup")
		return
	}
	switch key {
	case "k":
		what, do = "killed PostgreSQL on "+primary, func() error { return l.Kill(primary, lab.Postgres) }
	case "m":
		what, do = "killed sidecar, guard and PostgreSQL on "+primary+"; h brings it back", func() error { return l.KillMember(ctx, primary) }
	case "f":
		what, do = "froze PostgreSQL on "+primary+" (SIGSTOP)", func() error { return l.SignalPostgres(primary, syscall.SIGSTOP) }
	case "c":
		what, do = "took "+primary+"'s cable out; h puts it back", func() error { return l.LinkDown(ctx, primary) }
	case "s":
		what, do = "switched over from "+primary, func() error {
			return l.Change(ctx, primary, "/switchover", fmt.Appendf(nil, `{"leader": %q}`, primary))
		}
	case "d":
		do = said(v.delete)
	case "r":
		v.say("restoring the cluster to before the table was deleted")
		do = said(v.restore)
	case "h":
		what, do = "healed: links are up, what was down is started", func() error { return healLab(ctx, v.lab) }
	case "", "\r", "\n":
		return
	default:
		if what, do = v.siteKey(ctx, key, l); do == nil {
			v.say(fmt.Sprintf("%q is no key", key))
			return
		}
	}
	go func() {
		if err := do(); err != nil {
			what = "not done: " + err.Error()
		}
		select {
		case done <- what:
		case <-ctx.Done():
		}
	}()
}

// healLab puts cables back, lets what is frozen go on, and starts the sidecars
// that do not run.
func healLab(ctx context.Context, l *lab.Lab) error {
	var errs []error
	for _, site := range l.Sites() {
		errs = append(errs, healSite(ctx, site))
	}
	return errors.Join(errs...)
}

func healSite(ctx context.Context, l *lab.Lab) error {
	var errs []error
	if l.Plan().Isolated {
		errs = append(errs, l.HealAll(ctx))
	}
	for _, m := range l.Plan().Members() {
		if err := l.SignalPostgres(m.Name, syscall.SIGCONT); err != nil && !errors.Is(err, lab.ErrNotRunning) {
			errs = append(errs, err)
		}
		if _, err := l.PID(m.Name, lab.Sidecar); errors.Is(err, lab.ErrNotRunning) {
			errs = append(errs, l.Start(ctx, m.Name, lab.Sidecar))
		}
	}
	if l.Other() != nil { // of a site that was lost nothing runs
		errs = append(errs, l.StartSite(ctx))
	}
	return errors.Join(errs...)
}

// singleKeys makes a terminal pass on each key at once, and not show it; Ctrl-C
// stays a signal. Where stdin is none, lines are read. The caller calls restore.
func singleKeys(r io.Reader) (single bool, restore func()) {
	f, ok := r.(*os.File)
	if !ok {
		return false, func() {}
	}
	old, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return false, func() {}
	}
	raw := *old
	raw.Lflag &^= unix.ICANON | unix.ECHO
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &raw); err != nil {
		return false, func() {}
	}
	return true, func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, old) } // best effort: the shell resets it too
}

// readKeys passes keys on, or lines, until the input or the context ends. A
// read that waits cannot be ended: it ends with the process.
func readKeys(ctx context.Context, r io.Reader, single bool, keys chan<- string) {
	defer close(keys)
	s := bufio.NewScanner(r)
	if single {
		s.Split(bufio.ScanRunes)
	}
	for s.Scan() {
		select {
		case keys <- strings.TrimSpace(s.Text()):
		case <-ctx.Done():
			return
		}
	}
}
