package drill

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Measuring is what the measuring itself takes of the machine. A drill of a lab finds
// out first what a row, a connection and an answer of DNS cost here, on the clients', the
// proxies' and the servers' side together, and then asks no more often than a quarter of
// the machine is enough for: what it measures is the cluster, and not its own load.
type Measuring struct {
	// Processor time of each, in milliseconds, of the lab's processes and this one.
	RowMs        float64 `json:"row_ms"`
	ConnectionMs float64 `json:"connection_ms"`
	AnswerMs     float64 `json:"dns_answer_ms"`
	// The time between two of each, on one connection.
	WriteEveryMs  float64 `json:"write_every_ms"`  // on a route
	DirectEveryMs float64 `json:"direct_every_ms"` // to a member itself
	ReadEveryMs   float64 `json:"read_every_ms"`
	DNSEveryMs    float64 `json:"dns_every_ms"`
	// CrowdMs is what an attempt to connect or to write is given at least; see Route.Crowd.
	CrowdMs float64 `json:"crowd_ms"`
	// Share is the part of the machine that this takes, from 0 to 1.
	Share float64 `json:"share"`
}

// measured is how many connections a drill has.
type measured struct {
	writes, direct, reads int
	dns                   time.Duration // between two answers, at best
}

// The share of the machine that a drill may take, and how that is divided.
const (
	wholeShare = 0.25
	writeShare = 0.4 * wholeShare
	otherShare = 0.2 * wholeShare // each of direct writes, reads, DNS
)

// directInterval is the time between two writes to a member itself, at best.
const directInterval = 10 * time.Millisecond

// The longest time between two of each, whatever they cost: with less nothing would be
// seen of a short pause.
const (
	seldomWrite  = 100 * time.Millisecond
	seldomDirect = 100 * time.Millisecond
	seldomRead   = 100 * time.Millisecond
	seldomAsk    = 20 * time.Millisecond
)

// pacing is how often n connections are to do something that costs some milliseconds of a
// processor each time.
type pacing struct {
	n           int
	cost        float64
	least, most time.Duration // between two times
	share       float64       // of the machine, that all may take together
}

// every is the time between two times on one connection, in milliseconds, where a second
// has so many milliseconds of processor time.
func (p pacing) every(have float64) float64 {
	return min(max(float64(p.n)*p.cost/(p.share*have)*1000, ms(p.least)), ms(p.most))
}

// plan sets how often to ask on a machine of so many processors. It is pure.
func (m *Measuring) plan(processors float64, of measured) {
	have := processors * 1000
	m.Share = 0
	set := func(every *float64, p pacing) {
		if *every = p.every(have); *every > 0 {
			m.Share += float64(p.n) * p.cost * 1000 / *every / have
		}
	}
	set(&m.WriteEveryMs, pacing{of.writes, m.RowMs, 0, seldomWrite, writeShare})
	set(&m.DirectEveryMs, pacing{of.direct, m.RowMs, directInterval, seldomDirect, otherShare})
	set(&m.ReadEveryMs, pacing{of.reads, m.RowMs, readInterval, seldomRead, otherShare})
	set(&m.DNSEveryMs, pacing{1, m.AnswerMs, of.dns, seldomAsk, otherShare})
}

// crowd is how long so many clients wait at most for connections that all of them ask for
// at the same moment, where one alone takes so long: of processor time, or, where others use
// the processors too, by the clock. After a failover the cluster has more to do than to let
// clients in: four times what it would take otherwise. It is pure.
func crowd(one time.Duration, processors float64, clients int) time.Duration {
	return min(time.Duration(crowded*float64(clients)*float64(one)/processors), longestPatience)
}

const crowded = 4

func (m Measuring) words() string {
	return fmt.Sprintf("%.0f %% of the machine: each connection writes every %s; a row costs %s of processor time, a connection %s",
		100*m.Share, msWords(m.WriteEveryMs), msWords(m.RowMs), msWords(m.ConnectionMs))
}

// weighed is the run under which rows are written to find what they cost. No drill has it:
// theirs are positive.
func (r *rehearsal) weighed() int64 { return ^r.run }

// processorTime is that of the lab's processes and of this one, at both sites.
func (r *rehearsal) processorTime() (sum time.Duration, err error) {
	for _, site := range r.Lab.Sites() {
		used, err := site.ProcessorTime()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		return 0, fmt.Errorf("read this process's processor time: %w", err)
	}
	return sum + time.Duration(own.Utime.Nano()+own.Stime.Nano()), nil
}

// holdBack finds what the measuring costs, has it done no more often than a quarter of the
// machine is enough for, and the clients as patient as a crowd of them needs. With
// PauseOnly there are few, and only their patience is set.
func (r *rehearsal) holdBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.Deadline)
	defer cancel()
	w := &weighing{used: r.processorTime}
	m, err := r.weigh(ctx, w)
	// A route may be on its way to the primary still, or the lab busier with itself than with the rows.
	for tries := 1; ctx.Err() == nil && (err != nil || !r.PauseOnly && m.RowMs == 0 && tries < mostTries); tries++ {
		sleep(ctx, triedFor)
		m, err = r.weigh(ctx, w)
	}
	if err != nil {
		return err
	}
	if m.RowMs == 0 {
		m.RowMs = dearRow
	}
	of := r.measured()
	patience := crowd(max(fromMs(m.ConnectionMs), w.connection), processors(), of.writes+of.direct+of.reads)
	for _, w := range slices.Concat(r.routes, r.direct) {
		w.Route.Crowd = patience
	}
	for _, reader := range r.readers {
		reader.Route.Crowd = patience
	}
	m.CrowdMs = ms(patience)
	if r.PauseOnly {
		return nil
	}
	m.plan(processors(), of)
	for _, w := range r.routes {
		w.Interval = fromMs(m.WriteEveryMs)
	}
	for _, w := range r.direct {
		w.Interval = fromMs(m.DirectEveryMs)
	}
	for _, reader := range r.readers {
		reader.Interval = fromMs(m.ReadEveryMs)
	}
	r.dns.Interval = fromMs(m.DNSEveryMs)
	r.report.Measuring = &m
	return nil
}

// measured counts the drill's connections.
func (r *rehearsal) measured() measured {
	of := measured{direct: len(r.direct), reads: len(r.readers), dns: cmp.Or(r.dns.Interval, dnsInterval)}
	for _, w := range r.routes {
		of.writes += cmp.Or(w.Workers, routeWorkers)
	}
	return of
}

// weigh finds what things cost here, with PauseOnly a connection alone.
func (r *rehearsal) weigh(ctx context.Context, w *weighing) (Measuring, error) {
	route := r.routes[0].Route
	if r.PauseOnly {
		var m Measuring
		err := w.weighConnection(ctx, route, &m)
		return m, err
	}
	dns, err := r.dns.Dial(ctx, "udp", r.dns.Server)
	if err != nil {
		return Measuring{}, fmt.Errorf("reach DNS: %w", err)
	}
	defer dns.Close()
	return w.weigh(ctx, route, r.weighed(), func() error { return r.dns.Ask(dns) })
}

// How many of each are tried, and for how long at most.
const (
	triedRows, triedConnections, triedAnswers = 200, 20, 100
	triedFor                                  = 300 * time.Millisecond
)

// mostTries is how often a row's cost is looked for that is lost in what the lab does anyway;
// dearRow is taken for it then, in milliseconds: what one costs on a slow machine, with two sites.
const (
	mostTries = 10
	dearRow   = 5.0
)

// weighing finds what things cost: used is the processor time of the lab until now, idle
// how much of that there is in a millisecond of doing nothing, connection how long one took
// by the clock.
type weighing struct {
	used       func() (time.Duration, error)
	idle       float64
	connection time.Duration
}

// weigh finds what a row, a connection and an answer of DNS cost. It writes its rows
// through the route, under a run's number.
func (w *weighing) weigh(ctx context.Context, route Route, run int64, ask func() error) (Measuring, error) {
	var m Measuring
	ctx, cancel := context.WithTimeout(ctx, 10*triedFor)
	defer cancel()
	if err := w.weighConnection(ctx, route, &m); err != nil {
		return m, err
	}
	conn, err := route.Connect(ctx)
	if err != nil {
		return m, err
	}
	defer closeNow(conn)
	var seq int64
	m.RowMs, err = w.cost(triedRows, func() error {
		seq++
		_, err := write(ctx, conn, triedFor*10, run, 0, seq)
		return err
	})
	if err != nil {
		return m, err
	}
	m.AnswerMs, err = w.cost(triedAnswers, ask)
	return m, err
}

// weighConnection finds what the lab does anyway, and what a connection costs. The lab may
// have been busy with itself at first: the quieter of the times before and after counts.
func (w *weighing) weighConnection(ctx context.Context, route Route, m *Measuring) error {
	nothing := func() error { sleep(ctx, triedFor); return ctx.Err() }
	before, err := w.time(1, nothing)
	if err != nil {
		return err
	}
	connections, err := w.time(triedConnections, func() error {
		conn, err := route.Connect(ctx)
		if err == nil {
			closeNow(conn)
		}
		return err
	})
	if err != nil {
		return err
	}
	after, err := w.time(1, nothing)
	if err != nil {
		return err
	}
	w.idle = min(before.share(), after.share())
	w.connection = connections.took / time.Duration(connections.times)
	m.ConnectionMs = w.each(connections)
	return nil
}

// spent is what doing something several times took, by the clock and of all processors.
type spent struct {
	times      int
	took, used time.Duration
}

// share is the processor time in a millisecond of it.
func (s spent) share() float64 { return ms(s.used) / ms(s.took) }

// each is what one of them took of all processors, in milliseconds, less what the lab does
// anyway.
func (w *weighing) each(s spent) float64 {
	return max(ms(s.used)-w.idle*ms(s.took), 0) / float64(s.times)
}

// cost does something n times, or for triedFor, and returns what each took; see each.
func (w *weighing) cost(n int, do func() error) (float64, error) {
	s, err := w.time(n, do)
	if err != nil {
		return 0, err
	}
	return w.each(s), nil
}

// time does something n times, or for triedFor, and returns what that took.
func (w *weighing) time(n int, do func() error) (spent, error) {
	before, err := w.used()
	if err != nil {
		return spent{}, err
	}
	var s spent
	start := time.Now()
	for s.times < n && time.Since(start) < triedFor {
		if err := do(); err != nil {
			return spent{}, fmt.Errorf("find what the measuring costs: %w", err)
		}
		s.times++
	}
	s.took = time.Since(start)
	after, err := w.used()
	s.used = after - before
	return s, err
}

// processors are those that this process may use: fewer than the machine has where its
// control group has a quota (cgroup v2, cpu.max).
func processors() float64 {
	all := float64(runtime.NumCPU())
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return all
	}
	_, path, found := strings.Cut(strings.TrimSpace(string(own)), "0::")
	if !found {
		return all
	}
	limit, err := os.ReadFile("/sys/fs/cgroup" + path + "/cpu.max")
	if err != nil {
		return all
	}
	return min(all, parseQuota(string(limit), all))
}

// parseQuota reads cpu.max: microseconds of a period, or max, and the period.
func parseQuota(limit string, all float64) float64 {
	var quota, period float64
	if n, err := fmt.Sscan(limit, &quota, &period); n < 2 || err != nil || quota <= 0 || period <= 0 {
		return all
	}
	return quota / period
}
