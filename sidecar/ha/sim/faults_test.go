package sim_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

var outside = flag.String("sim.faults", "", "faults from outside of the protocol: all, or names with commas between them; TestFaults makes runs of each")

// outsideOf is the set that -sim.faults names.
func outsideOf(t *testing.T) sim.Outside {
	set, err := sim.ParseOutside(*outside)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestFaults makes -sim.runs runs with each of the faults that -sim.faults
// names, and says what came of them. Without it runs are made with all of them mixed: a few
// thousand of seeds that are always the same, and as many of others, which are shown and not judged.
//
//	go test ./sidecar/ha/sim -v -run Faults -sim.runs 2000 -sim.faults all
func TestFaults(t *testing.T) {
	if *outside == "" {
		fewFaults(t)
		return
	}
	chosen := outsideOf(t)
	if *mixed {
		for _, members := range shapes(t) {
			t.Run(fmt.Sprintf("mixed/members=%d", members), func(t *testing.T) {
				judgeFaults(t, *first, *runs, sim.Options{Members: members, Outside: chosen})
			})
		}
		return
	}
	for i, name := range sim.OutsideNames() {
		one := sim.Outside(1) << i
		if chosen&one == 0 {
			continue
		}
		for _, members := range shapes(t) {
			t.Run(fmt.Sprintf("%s/members=%d", name, members), func(t *testing.T) {
				judgeFaults(t, *first, *runs, sim.Options{Members: members, Outside: one})
			})
		}
	}
}

// fewFaults is what every go test makes of that.
func fewFaults(t *testing.T) {
	fresh := uint64(time.Now().UnixNano())
	for _, c := range []struct{ members, runs int }{{2, 300}, {3, 800}, {4, 200}, {5, 300}, {7, 100}} {
		n := c.runs
		if testing.Short() {
			n /= 4
		}
		t.Run(fmt.Sprintf("mixed/members=%d", c.members), func(t *testing.T) {
			o := sim.Options{Members: c.members, Outside: sim.AllOutside}
			judgeFaults(t, 1, n, o)
			_, noted := sweep(fresh, n, o)
			for _, r := range noted {
				if r.Violation != "" { // one in ten thousand still does: TestFaults with -sim.faults all judges those
					t.Logf("seed %d, of others: %s", r.Seed, r.Violation)
				}
			}
		})
	}
}

// TestFaultSeeds: seeds with faults from outside that once broke a promise, or were stuck without
// a command that helps.
func TestFaultSeeds(t *testing.T) {
	w := sim.NewWorld()
	withRestores := sim.AllOutside &^ sim.PortCut // the faults that there were when those seeds were drawn
	for _, o := range []sim.Options{
		{Seed: 3005943, Members: 3}, // its server hangs, no standby surely holds each commit, and status named no command
		{Seed: 5000165, Members: 7}, // a loss was accepted, and the claim let it come before the promotion
		// Consul was put back to other voters, of which the only one had just started, and heard nobody.
		{Seed: 1796103305446537610, Members: 5},
		{Seed: 11000782, Members: 3}, // who had lost its data, and its promise of a later term, confirmed an earlier one
		{Seed: 11038942, Members: 3}, // Consul was put back to before a claim, whose leader went on although another had led since
		{Seed: 11038669, Members: 3}, // an empty cluster was founded beside the data of a member that was just not heard
		// Consul was put back: the last primary woke up, and elected itself while all others were starting;
		// another went on by the lock in it, and wrote what restated its term.
		{Seed: 12010823, Members: 5}, {Seed: 12018099, Members: 5}, {Seed: 13001735, Members: 7},
		{Seed: 17017767, Members: 3}, // a person decided in an election that had been won, and its timeline was claimed twice
		// All members of an earlier record elected one of them, and others had joined since.
		{Seed: 20000933, Members: 5, Outside: withRestores},
		{Seed: 11011221, Members: 3}, // the disk of a primary hung before its first write, and nobody said so
		{Seed: 14010453, Members: 2}, // who could lead was to be cloned anew from the primary whose disk hangs, so nobody was named
		{Seed: 13005751, Members: 7}, // what a member had got in a later term was taken for a price that was not named
		// A leader, and who had followed it, lost their disks, and Consul was put back to before its claim: its timeline
		// was claimed again.
		{Seed: 17027152, Members: 3}, {Seed: 19015011, Members: 3, Outside: withRestores},
		{Seed: 100712, Members: 3, Outside: sim.RestoreVoters | sim.LoseDisk}, {Seed: 102394, Members: 3, Outside: sim.RestoreVoters | sim.LoseDisk},
		{Seed: 109376, Members: 3, Outside: sim.RestoreVoters | sim.LoseDisk},
		// The beginning of a record, which its upstream had passed over, was taken for log that it never wrote.
		{Seed: 749, Members: 3, Outside: sim.MidRecord}, {Seed: 19003654, Members: 3, Outside: withRestores},
		{Seed: 14014048, Members: 2},                        // data founded a cluster whose member had lost its promise, though another might have led since
		{Seed: 21000747, Members: 2, Outside: withRestores}, // a person had a member lead with data whose recovery was to promote them
		{Seed: 21005364, Members: 2, Outside: withRestores}, // Consul lost that a restore had been given up, and its member went on with it
		// A primary of two that had stood still, by a clock that did as well, took an election for undecided that another had won.
		{Seed: 21107977, Members: 2, Outside: withRestores},
		{Seed: 21101206, Members: 4, Outside: withRestores}, // a candidate waited for a position for longer than others did for it
		// Who was started amid an election that another had won passed it on, by a vote that stands for all, before it heard
		// the others; a primary that waited for Consul's answer to a restore did nothing else.
		{Seed: 22002119, Members: 5, Outside: sim.AllOutside}, {Seed: 22000531, Members: 2, Outside: sim.AllOutside},
		// The world was wrong: a walreceiver that waits for its disk answered; a damaged record had the index of the one
		// after it; terms counted that no disk was left to remember.
		{Seed: 14006150, Members: 2}, {Seed: 1796106354097783529, Members: 2, Outside: withRestores}, {Seed: 17024420, Members: 3}, {Seed: 14000768, Members: 2},
		{Seed: 21201428, Members: 3, Outside: withRestores}, // and a recovery to a target was promoted by hand, which PostgreSQL ends instead
		// What had recovered a restore had lost its disk when the record said that the cluster goes on with it; a
		// pause, in which nothing is said and nothing acknowledged, counted as time in which a member said nothing.
		{Seed: 21300127, Members: 3, Outside: withRestores}, {Seed: 21302414, Members: 5, Outside: withRestores},
		// Consul was put back to before an election, and who knew nothing of it began its term anew: two leaders of one term.
		{Seed: 30095690, Members: 3, Outside: sim.AllOutside},
		// The world was wrong: who serves alone by the word of a Consul that was put back, and hears nobody, cannot know of
		// a later term; a log that no term began was taken for a vote; walsenders from before a change of k stayed.
		{Seed: 30009907, Members: 3, Outside: sim.AllOutside}, {Seed: 30005098, Members: 3, Outside: sim.AllOutside}, {Seed: 30052835, Members: 5, Outside: sim.AllOutside},
		{Seed: 31006066, Members: 3, Outside: sim.AllOutside}, // the only copy was lost, and Consul with it
		{Seed: 34055657, Members: 3, Outside: sim.AllOutside}, // a restore's term and timeline became others', as Consul was put back to before it
		{Seed: 34080395, Members: 3, Outside: sim.AllOutside}, // what had been sent before the cluster was there founded it anew when Consul had lost the keys
		{Seed: 34089702, Members: 3, Outside: sim.AllOutside}, // a person chose who had been founded beside the cluster, and its election gave up what the other had acknowledged
		// The world was wrong: who stood still during a restore acknowledged what that had replaced.
		{Seed: 1796165593417123665, Members: 5, Outside: sim.RestoreInPlace},
		{Seed: 34076058, Members: 3, Outside: sim.AllOutside}, // and they were as far above as those of a record that is made anew
		{Seed: 33001017, Members: 2, Outside: sim.AllOutside}, // with its host
		{Seed: 34015855, Members: 3, Outside: sim.AllOutside}, // a person's election began by an older record, whose voters were not those of the newest
		{Seed: 32001480, Members: 2, Outside: sim.AllOutside}, // restored data were lost, and recovered again on the timeline that they had begun
		// Consul was put back to the founding, and the founder, whose disk was new, founded another cluster beside the data.
		{Seed: 60001443, Members: 3, Outside: sim.AllOutside},
		// Consul was emptied twice, and the record that was made anew did not say what had become of a restore: no command led out.
		{Seed: 61070140, Members: 3, Outside: sim.AllOutside},
		// The world was wrong: what a primary acknowledged in async mode, beyond its lease as its clock had stopped, counted
		// when the next had changed the mode.
		{Seed: 61018969, Members: 3, Outside: sim.AllOutside},
		{Seed: 61003567, Members: 3, Outside: sim.AllOutside}, // a term's claim was lost with Consul, and the next term took its timeline
		// Consul was put back to before an election, and another of its term came late: its leader went on,
		// though a member had log of a timeline that the first had begun.
		{Seed: 61212736, Members: 3, Outside: sim.AllOutside},
		{Seed: 62043485, Members: 5, Outside: sim.AllOutside}, // a member stood still with its claim, and was promoted by a record that Consul was put back to
		{Seed: 62083647, Members: 5, Outside: sim.AllOutside}, // a change that was not answered counted as settled, as Consul had lost the record since
		{Seed: 62093801, Members: 5, Outside: sim.AllOutside}, // the lock was passed for ever to a member whose disk hung
		// A member that woke up believed what it had heard before it stood still, and elected itself.
		{Seed: 63152095, Members: 3, Outside: sim.AllOutside},
		{Seed: 63074810, Members: 3, Outside: sim.AllOutside}, // a restore that the cluster had gone on with was made again
		// A new process of the leader believed a record whose voters its own server did not wait for.
		{Seed: 63365319, Members: 3, Outside: sim.AllOutside},
		// A former primary founded the cluster anew, lost its data, and another led without asking for its vote.
		{Seed: 63400066, Members: 3, Outside: sim.AllOutside}, {Seed: 63446379, Members: 3, Outside: sim.AllOutside},
		{Seed: 63189506, Members: 3, Outside: sim.AllOutside}, // a candidate that had been run by hand was started, and others streamed from it
		{Seed: 63082780, Members: 3, Outside: sim.AllOutside}, // log that was none of the cluster's was compared by its numbers
		{Seed: 63457410, Members: 3, Outside: sim.AllOutside}, // a member that woke up founded a cluster beside the one that had been founded meanwhile
		{Seed: 63235822, Members: 3, Outside: sim.AllOutside}, // a founder whose record was lost went on beside the one that had taken its place
		{Seed: 63624733, Members: 3, Outside: sim.AllOutside}, // a restore was made again that had been given up
		{Seed: 64114806, Members: 5, Outside: sim.AllOutside}, // a person had a primary lead on, and it passed that on to one that lacked its commits
		// Status named no command, or one that did not help: to a member that owes, and the only one with data; beside one that
		// has promised a later term; to two founders of the cluster; to a member that had passed the lock in vain.
		{Seed: 63536021, Members: 3, Outside: sim.AllOutside}, {Seed: 63017241, Members: 3, Outside: sim.AllOutside},
		{Seed: 63514358, Members: 3, Outside: sim.AllOutside}, {Seed: 63556133, Members: 3, Outside: sim.AllOutside},
		// The world was wrong: a term counted that nobody was left to know of; a server whose disk hangs was copied from.
		{Seed: 63314911, Members: 3, Outside: sim.AllOutside}, {Seed: 63422914, Members: 3, Outside: sim.AllOutside},
		// An election in between hid that its candidate had not followed the last primary's term; a process that could not
		// read the record when it began took itself for one that had; one that woke up believed a refusal from before.
		{Seed: 63312191, Members: 3, Outside: sim.AllOutside}, {Seed: 63353326, Members: 3, Outside: sim.AllOutside}, {Seed: 63504081, Members: 3, Outside: sim.AllOutside},
		// No command helped: a member that was to be cloned anew was the only one that could lead; a restore that the cluster
		// had gone on with was still under way by Consul's record, and its disk hung.
		{Seed: 66070640, Members: 3, Outside: sim.AllOutside}, {Seed: 66068373, Members: 3, Outside: sim.AllOutside},
		// Consul was put back to before an election, and a member that knew nothing of it began its term anew: a promise says
		// whose the term is. And a founding whose record was lost could not be forced.
		{Seed: 68046514, Members: 3, Outside: sim.AllOutside}, {Seed: 67033593, Members: 5, Outside: sim.AllOutside}, {Seed: 68040562, Members: 3, Outside: sim.AllOutside},
		// The world was wrong: of two logs that each acknowledged something a person had chosen one;
		{Seed: 68037944, Members: 3, Outside: sim.AllOutside},
		// nobody had heard that a restore was given up; what a member has that is not heard is in the price.
		{Seed: 61206119, Members: 3, Outside: sim.AllOutside}, {Seed: 62112477, Members: 5, Outside: sim.AllOutside}, {Seed: 62118267, Members: 5, Outside: sim.AllOutside},
		// A primary that may have passed the lock on, or has told the others that its server is down, took its lease for
		// a proof that nobody has followed it.
		{Seed: 74602127, Members: 3, Outside: sim.AllOutside}, {Seed: 75644514, Members: 3, Outside: sim.AllOutside},
		// A former leader without data passed on an election that it may have won; the phase of a record was written anew
		// before its timeline was known; data were kept that had been given up; a founder's disk hung.
		{Seed: 74304398, Members: 3, Outside: sim.AllOutside}, {Seed: 74311992, Members: 3, Outside: sim.AllOutside},
		{Seed: 75100189, Members: 5, Outside: sim.AllOutside}, {Seed: 74488212, Members: 3, Outside: sim.AllOutside},
		// The world was wrong: an earlier primary was not told of an election; a damaged record was of a term that nobody knew;
		{Seed: 74499873, Members: 3, Outside: sim.AllOutside}, {Seed: 74460254, Members: 3, Outside: sim.AllOutside},
		{Seed: 72011657, Members: 3, Outside: sim.AllOutside}, // what a deposed primary recovers and shows, unaware, is as little protected as what it acknowledges
		// Consul was put back while those that had read a later record were down, and forgot it: it is on their disks. An election
		// was written again with the voters that it had, though the last primary went on with others; data of a restore that was
		// given up were made to lead; a leader whose claimed timeline had begun before was promoted by the older claim.
		{Seed: 74780922, Members: 3, Outside: sim.AllOutside}, {Seed: 75272931, Members: 3, Outside: sim.AllOutside}, {Seed: 75040212, Members: 3, Outside: sim.AllOutside},
		{Seed: 75492733, Members: 3, Outside: sim.AllOutside}, {Seed: 75815192, Members: 3, Outside: sim.AllOutside}, {Seed: 75832791, Members: 3, Outside: sim.AllOutside},
		{Seed: 75841766, Members: 3, Outside: sim.AllOutside}, {Seed: 75054770, Members: 3, Outside: sim.AllOutside}, {Seed: 75575237, Members: 3, Outside: sim.AllOutside},
		{Seed: 75584585, Members: 3, Outside: sim.AllOutside}, {Seed: 75378252, Members: 5, Outside: sim.AllOutside}, {Seed: 75445621, Members: 5, Outside: sim.AllOutside},
		// One was made to lead while the lease of the last primary ran, which nobody followed; a primary that was started again took
		// the lock back by an older record.
		{Seed: 76003211, Members: 3, Outside: sim.AllOutside}, {Seed: 78122251, Members: 3, Outside: sim.AllOutside}, {Seed: 78993082, Members: 3, Outside: sim.AllOutside},
		{Seed: 251003658, Members: 3, Outside: sim.AllOutside}, {Seed: 251005458, Members: 3, Outside: sim.AllOutside}, {Seed: 251105615, Members: 3, Outside: sim.AllOutside},
		// A restore was taken up again that had been given up by a term which Consul had lost; a voter had lost its state, and its own
		// vote elected it; a forced candidate waited for the lease of one that has no data, and others took its place meanwhile.
		{Seed: 78019248, Members: 3, Outside: sim.AllOutside}, {Seed: 79271835, Members: 3, Outside: sim.AllOutside}, {Seed: 90068523, Members: 3, Outside: sim.AllOutside},
		{Seed: 90057982, Members: 3, Outside: sim.AllOutside}, {Seed: 90063704, Members: 3, Outside: sim.AllOutside}, {Seed: 90020389, Members: 3, Outside: sim.AllOutside},
		// A leader's disk hung while Consul had lost that it led; one that woke up changed the durability before others could say
		// that one of them leads.
		{Seed: 78274642, Members: 3, Outside: sim.AllOutside}, {Seed: 78920235, Members: 3, Outside: sim.AllOutside},
		// The world was wrong: in async mode an isolated primary goes by Consul's old word; what only a host had that is gone for good.
		{Seed: 90064151, Members: 3, Outside: sim.AllOutside}, {Seed: 90088983, Members: 3, Outside: sim.AllOutside},
		{Seed: 94066374, Members: 5, Outside: sim.AllOutside}, // a founder was lost, all others had data, and status named no command
		{Seed: 91039729, Members: 3, Outside: sim.AllOutside}, // a deposed primary's clock had stood still with its machine while its successor was elected
		{Seed: 93010754, Members: 3, Outside: sim.AllOutside}, // of two members whose logs had left the cluster's status named the one with less
		// In async mode a primary that had just come back took writes before it could hear who had led since.
		{Seed: 95037833, Members: 3, Outside: sim.AllOutside},
		// The world was wrong: what is promoted late, in a term long over, leads nobody.
		{Seed: 95138055, Members: 3, Outside: sim.AllOutside}, {Seed: 101022678, Members: 3, Outside: sim.AllOutside},
		{Seed: 91343749, Members: 3, Outside: sim.AllOutside}, // a process stood still for less than three seconds, in which Consul was put back
		// A record written again named fewer voters than the setting; an empty disk's word founded a cluster; a restore whose claim went
		// back; one that was given up, which Consul had lost, went on.
		{Seed: 102122820, Members: 5, Outside: sim.AllOutside}, {Seed: 102331292, Members: 3, Outside: sim.AllOutside},
		{Seed: 102368995, Members: 5, Outside: sim.AllOutside}, {Seed: 102732878, Members: 5, Outside: sim.AllOutside},
		// The world was wrong: nobody who elected could know that there was a later record of the term; who led a forgotten term;
		// a promotion of a term before one that has led.
		{Seed: 101206510, Members: 3, Outside: sim.AllOutside}, {Seed: 101702356, Members: 3, Outside: sim.AllOutside}, {Seed: 102510368, Members: 5, Outside: sim.AllOutside},
		{Seed: 101822216, Members: 3, Outside: sim.AllOutside}, {Seed: 102394815, Members: 3, Outside: sim.AllOutside},
	} {
		if o.Outside == 0 {
			o.Outside = withRestores &^ sim.RestoreInPlace
		}
		if r := w.Run(o); r.Violation != "" {
			t.Errorf("seed %d of %d members: %s", o.Seed, o.Members, r.Violation)
		}
	}
}

// judgeFaults makes n runs, and prints one line for each kind of failure.
func judgeFaults(t *testing.T, from uint64, n int, o sim.Options) {
	begun := time.Now()
	total, noted := sweep(from, n, o)
	x := &total.Outcome
	kinds := map[string][]sim.Result{}
	for _, r := range noted {
		rule := r.Rule
		if rule == "" {
			rule = "ended by a command"
			if r.NoLoss > 0 {
				rule = "ended by accepting a loss, and nothing was lost"
			}
		}
		kinds[rule] = append(kinds[rule], r)
	}
	t.Logf("%d runs, %.0f a second; accepted losses: %d; cancelled waits: %d; commits at people's own risk: %d; needless rewinds: %d; troubled by clocks beyond S6: %d; restores in place: %d",
		n, float64(n)/time.Since(begun).Seconds(), x.Accepted, x.Cancelled, x.Local, x.Needless, x.Clock, x.Restored)
	for _, rule := range slices.Sorted(maps.Keys(kinds)) {
		bad := kinds[rule]
		slices.SortFunc(bad, func(a, b sim.Result) int { return cmp.Compare(a.Seed, b.Seed) })
		var seeds []string
		for _, r := range bad[:min(len(bad), 8)] {
			seeds = append(seeds, fmt.Sprint(r.Seed))
		}
		text := fmt.Sprintf("%s: %d runs, seeds %s", rule, len(bad), strings.Join(seeds, " "))
		if bad[0].Violation == "" {
			t.Log(text, causes(bad))
		} else {
			t.Errorf("%s; the first: %s", text, bad[0].Violation)
			t.Log("  " + causes(bad))
		}
	}
}

// variable is what differs between two runs that fail for one cause.
var variable = regexp.MustCompile(`\b(n[1-7]|[0-9]+( [0-9]+)*)\b`)

// causes groups failures by what they say, with the first seed of each group.
func causes(bad []sim.Result) string {
	count, first := map[string]int{}, map[string]uint64{}
	for _, r := range bad {
		text := variable.ReplaceAllString(cmp.Or(r.Violation, r.Reason), "_")
		if count[text]++; count[text] == 1 {
			first[text] = r.Seed
		}
	}
	lines := ""
	groups := slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(first[a], first[b]))
	})
	for _, text := range groups[:min(len(groups), maxCauses)] {
		lines += fmt.Sprintf("\n      %d like seed %d: %s", count[text], first[text], text)
	}
	return "causes:" + lines
}

// maxCauses is how many causes of a kind of failure are printed.
const maxCauses = 8

// shapes are the sizes that -sim.sizes names.
func shapes(t *testing.T) []int {
	var all []int
	for text := range strings.SplitSeq(*shapeList, ",") {
		n := 0
		if _, err := fmt.Sscan(text, &n); err != nil || n < 1 || n > sim.MaxMembers {
			t.Fatalf("-sim.sizes: %q", text)
		}
		all = append(all, n)
	}
	return all
}

var mixed = flag.Bool("sim.mixed", false, "TestFaults draws from all of -sim.faults in each run, rather than from one after the other")

var shapeList = flag.String("sim.sizes", "3", "the sizes of the clusters that TestFaults makes, with commas between them")

// TestEachFaultStrikes: each fault from outside changes what happens in some runs,
// or it is none.
func TestEachFaultStrikes(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	w := sim.NewWorld()
	for i, name := range sim.OutsideNames() {
		if name == "forget-member" || name == "other-version" {
			continue // the shell dials a recorded member where it was, and keeps what it does not know: nothing comes of it
		}
		changed := 0
		for seed := uint64(1); seed <= 30; seed++ {
			plain := w.Run(sim.Options{Seed: seed})
			struck := w.Run(sim.Options{Seed: seed, Outside: 1 << i})
			if plain.Decisions != struck.Decisions || plain.Commits != struck.Commits {
				changed++
			}
		}
		if t.Logf("%-16s changes %d of 30 runs", name, changed); changed < 3 {
			t.Errorf("%s changes only %d of 30 runs", name, changed)
		}
	}
}
