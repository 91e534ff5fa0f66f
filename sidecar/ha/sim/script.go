package sim

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Script drives a world by hand: an incident, verb by verb. Nothing goes wrong
// in it but what it says, and nothing is delayed by chance.
type Script struct {
	w    *World
	told int // how many lines of the story were returned
}

// Cluster is what a script begins with.
type Cluster struct {
	Members  int
	Mode     ha.Mode
	Standbys int // k
	Strict   bool
	Fresh    bool    // it has still to be founded
	Outside  Outside // what it will break beyond the protocol
	Core     Core    // the product's by default
}

// NewScript makes a cluster that runs, and n1 is its primary; or one that is to be founded.
func NewScript(c Cluster) *Script {
	w := NewWorld()
	fixed := shape{mode: c.Mode, k: c.Standbys, strict: c.Strict, fresh: c.Fresh, writeGap: 200 * milli, lookGap: 400 * milli,
		walTime: 3 * second, lease: 5 * second, length: forever}
	w.reset(Options{Seed: 1, Members: c.Members, Core: c.Core, Calm: true, Story: true, Outside: c.Outside, fixed: &fixed})
	return &Script{w: w}
}

// Verbs are what Do knows, with what follows them.
func Verbs() []string {
	return []string{"run DURATION", "status MEMBER...", "record", "crash MEMBER [server|sidecar]", "boot MEMBER", "lose-host MEMBER", "lose-data MEMBER", "lose-disk MEMBER",
		"pause MEMBER DURATION [server|sidecar]", "cut MEMBER [MEMBER|consul|members|port]", "heal", "full MEMBER", "hang MEMBER", "consul away|back|empty|restore|restore-voters|delete-keys|delete-lock|damage",
		"switchover MEMBER [MEMBER]", "shutdown MEMBER", "reinit MEMBER", "promote-by-hand MEMBER", "start-by-hand MEMBER",
		"restore MEMBER RECORDS [broken]", "type COMMAND"}
}

// Do does what a line says, and returns what came of it: the story since the
// line before. It returns an error for a line that it does not understand.
func (s *Script) Do(verb string, args ...string) (string, error) {
	w := s.w
	if verb == "run" && len(args) == 1 {
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return "", fmt.Errorf("run: %w", err)
		}
		w.runUntil(w.now + int64(d))
		return s.story(), nil
	}
	switch {
	case verb == "record":
		return s.record(), nil
	case verb == "heal":
		w.heal()
		return s.story(), nil
	case verb == "type":
		w.typeCommand(strings.Join(args, " "))
		return s.story(), nil
	case verb == "consul" && len(args) == 1:
		return s.story(), s.consul(args[0])
	case len(args) == 0 || w.index(args[0]) < 0:
		return "", fmt.Errorf("%s: no member is named; the verbs are %s", verb, strings.Join(Verbs(), ", "))
	}
	m, rest := w.index(args[0]), args[1:]
	switch verb {
	case "status":
		text := s.status(m)
		for _, name := range rest {
			if i := w.index(name); i >= 0 {
				text += s.status(i)
			}
		}
		return text, nil
	case "cut":
		return s.story(), s.cut(m, rest)
	case "pause":
		return s.story(), s.pause(m, rest)
	case "restore":
		return s.story(), s.restore(m, rest)
	case "switchover":
		in := ha.Intent{Switchover: true, Since: w.members[m].read(w.now)}
		if len(rest) > 0 {
			in.Target = rest[0]
		}
		s.ask(m, in)
		return s.story(), nil
	}
	return s.story(), s.strike(verb, m, rest)
}

// strike is what happens to one member.
func (s *Script) strike(verb string, m int, rest []string) error {
	w := s.w
	part := strings.Join(rest, " ")
	switch {
	case verb == "crash" && part == "":
		w.crashHost(m)
	case verb == "crash" && part == "server":
		w.crash(m)
	case verb == "crash" && part == "sidecar":
		w.stopSidecar(m)
	case verb == "boot" && w.members[m].hostUp:
		w.startSidecar(m)
	case verb == "boot":
		w.bootHost(m)
	case verb == "lose-host":
		w.loseHost(m)
	case verb == "lose-data":
		w.loseDisk(&fault{}, m, false)
	case verb == "lose-disk":
		w.loseDisk(&fault{}, m, true)
	case verb == "full":
		w.members[m].server.full++
	case verb == "hang":
		w.hangDisk(&fault{how: 1}, m)
	case verb == "shutdown":
		s.ask(m, ha.Intent{Shutdown: true, Since: w.members[m].read(w.now)})
	case verb == "reinit":
		s.ask(m, ha.Intent{Reinit: true, Since: w.members[m].read(w.now)})
	case verb == "promote-by-hand":
		w.promoteByHand(m)
	case verb == "start-by-hand":
		w.startByHand(&fault{how: 4}, m)
	default:
		return fmt.Errorf("%s %s: the verbs are %s", verb, part, strings.Join(Verbs(), ", "))
	}
	return nil
}

func (s *Script) ask(m int, in ha.Intent) {
	s.w.members[m].sidecar.intent = in
	s.w.step(m)
}

func (s *Script) consul(what string) error {
	w := s.w
	switch what {
	case "away":
		w.consul.away++
	case "back":
		w.consul.away = 0
		w.leaderChange()
	case "empty":
		w.strikeConsul(&fault{}, 0, EmptyConsul)
	case "restore":
		w.restore(&fault{}, RestoreTerm)
	case "restore-voters":
		w.restore(&fault{}, RestoreVoters)
	case "delete-keys":
		w.strikeConsul(&fault{}, 0, DeleteKeys)
	case "delete-lock":
		w.strikeConsul(&fault{}, 0, DeleteLock)
	case "damage":
		w.strikeConsul(&fault{}, 0, DamageState)
	default:
		return fmt.Errorf("consul %s: away, back, empty, restore, restore-voters, delete-keys, delete-lock or damage", what)
	}
	return nil
}

// cut takes a member off the network, wholly or from one other.
func (s *Script) cut(m int, rest []string) error {
	w := s.w
	from := strings.Join(rest, " ")
	if i := w.index(from); i >= 0 {
		w.cutPair(m, i, 0, 1)
		return nil
	}
	switch from {
	case "", "members":
		for i := range w.n {
			w.cutPair(m, i, 0, 1)
		}
		if from == "" {
			w.cutConsul(m, 0, 1)
		}
	case "consul":
		w.cutConsul(m, 0, 1)
	case "port":
		w.cutPort(m, false, 1)
	default:
		return fmt.Errorf("cut: %s is no member, nor consul, members or port", from)
	}
	return nil
}

func (s *Script) pause(m int, rest []string) error {
	if len(rest) == 0 {
		return fmt.Errorf("pause: for how long")
	}
	d, err := time.ParseDuration(rest[0])
	if err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	b, until := &s.w.members[m], s.w.now+int64(d)
	switch strings.Join(rest[1:], " ") {
	case "":
		b.hostPaused = until
	case "server":
		b.server.pausedUntil = until
	case "sidecar":
		b.sidecar.pausedUntil = until
	}
	return nil
}

// restore has the leader restore so many of its records, from a backup of half of them.
func (s *Script) restore(m int, rest []string) error {
	n, err := 0, error(nil)
	if len(rest) > 0 {
		n, err = strconv.Atoi(rest[0])
	}
	if have := s.w.members[m].server.flushed; err != nil || n < 1 || n > have {
		return fmt.Errorf("restore: how many of %d records", have)
	}
	s.w.askRestore(m, saved{log: s.w.members[m].server.log[:n], backup: (n + 1) / 2, broken: len(rest) > 1})
	return nil
}

// heal ends what is broken in the network and on disks.
func (w *World) heal() {
	w.net = network{}
	for m := range w.n {
		w.members[m].server.full = 0
		w.diskAnswers(m)
		w.resume(m)
	}
}

// runUntil lets the world go on until then, or until a promise is broken.
func (w *World) runUntil(until int64) {
	for !w.check.failed() && len(w.queue.heap) > 0 && w.queue.heap[0].at <= until {
		e := w.queue.pop()
		w.now = e.at
		w.happen(&e)
	}
	w.now = max(w.now, until)
}

// What people need not read in a story, and what is too long in it.
var (
	dull  = regexp.MustCompile(`^(reports|link to|sends transaction|announces|learns that|sidecar starts|server is up|transaction |blocked: nothing is decided)`)
	begin = regexp.MustCompile(`^begins ([a-z-]+) .*?: (.*)$`)
	apply = regexp.MustCompile(`^consul: ([a-z]+) applied: (.*) timeline (\d+) members.*$`)
)

// story is what happened since it was last printed, with times in seconds.
func (s *Script) story() string {
	var text strings.Builder
	lines := s.w.check.story
	for _, line := range lines[s.told:] {
		at, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		who, what, _ := strings.Cut(strings.TrimSpace(rest), " ")
		what = strings.TrimSpace(what)
		if dull.MatchString(what) {
			continue
		}
		what = begin.ReplaceAllString(what, "begins $1: $2")
		what = apply.ReplaceAllString(what, "record: $1: $2, timeline $3")
		seconds := 0.0
		fmt.Sscan(at, &seconds)
		fmt.Fprintf(&text, "%5.1f %s %s\n", seconds, who, what)
	}
	s.told = len(lines)
	return text.String()
}

// record is what Consul holds.
func (s *Script) record() string {
	r := &s.w.consul.record
	if !r.Exists() {
		return "none\n"
	}
	return fmt.Sprintf("term %d %s %s, %s k=%d of %v, timeline %d, lock of %s\n", r.Term, r.Leader, r.Phase, r.Durability.Mode, r.Durability.K,
		r.Durability.Voters, r.Timeline, cmpOr(s.w.consul.lock.Session, "nobody"))
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// status is what a member says of itself, as pgsidecar status does.
func (s *Script) status(m int) string {
	w := s.w
	b := &w.members[m]
	if !b.hostUp || !b.sidecar.alive {
		return fmt.Sprintf("%s: is not there\n", b.name)
	}
	o := w.observe(m)
	r := w.core.Report(b.sidecar.state, o)
	text := fmt.Sprintf("%s: %s, term %d, follows %s, %d records", b.name, r.Role, r.Term, cmpOr(r.Leader, "nobody"), len(b.server.log))
	for _, is := range []struct {
		so   bool
		word string
	}{{r.Streaming, "streams"}, {r.Hears, "hears the primary"}, {r.Voted, "has voted"}, {r.Writable, "takes writes"}} {
		if is.so {
			text += ", " + is.word
		}
	}
	text += "\n"
	for i := range b.sidecar.state.Blocks {
		x := &b.sidecar.state.Blocks[i]
		text += fmt.Sprintf("  %s\n    missing: %s\n", x.What, x.Missing)
		if x.Override != "" {
			text += fmt.Sprintf("    to go on: %s\n    cost: %s\n", x.Override, x.Cost)
		}
	}
	return text
}
