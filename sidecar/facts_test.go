package sidecar

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// fill gives each field of a struct a value that is not its zero.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Bool:
			f.SetBool(true)
		case reflect.String:
			f.SetString("x")
		case reflect.Int, reflect.Int64:
			f.SetInt(7)
		case reflect.Uint8:
			f.SetUint(1)
		case reflect.Uint32, reflect.Uint64:
			f.SetUint(7)
		case reflect.Struct:
			fill(t, f)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		default:
			t.Fatalf("%s: fill does not know what to put there", v.Type().Field(i).Name)
		}
	}
}

func filled[T any](t *testing.T) T {
	t.Helper()
	var v T
	fill(t, reflect.ValueOf(&v).Elem())
	return v
}

// TestFactsEndWithTheProcess: whatever SQL and the probes said, each field of it, is
// forgotten when the process ends; but for the setting of the synchronous standbys,
// which a file keeps, and which is then unsure.
func TestFactsEndWithTheProcess(t *testing.T) {
	var f facts
	f.server = filled[ha.Server](t)
	f.server.Process, f.server.CleanStop = ha.ProcessRunning, true
	set := f.server.Sync
	f.takeProcess(GuardStatus{Postmaster: ha.Postmaster{Process: ha.ProcessStopped, ExitedAt: 9}}, 10)
	v := &f.server
	if want := (ha.SQL{Sync: set, SyncUnsure: true}); !reflect.DeepEqual(v.SQL, want) {
		t.Errorf("SQL is still known: %+v", v.SQL)
	}
	if v.Probes != (ha.Probes{}) || v.CleanStop || v.End.Known() || v.ExitedAt != 9 {
		t.Errorf("%+v %+v %+v", v.Probes, v.Files, v.Postmaster)
	}
}

// TestLookIsTakenOverWhole: each field that a look returns is known after it, and none
// of it if the server has begun another life, or an operation came between.
func TestLookIsTakenOverWhole(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(f *facts)
		taken     bool
	}{
		"quiet":              {func(*facts) {}, true},
		"restarted":          {func(f *facts) { f.server.StartedAt++ }, false},
		"stopped":            {func(f *facts) { f.server.Process = ha.ProcessStopped }, false},
		"an operation began": {func(f *facts) { f.begin(ha.Action{Kind: ha.Follow}, 5) }, false},
		"an operation was":   {func(f *facts) { f.begin(ha.Action{Kind: ha.Follow}, 5); f.end(ha.Follow) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			var f facts
			f.server.Postmaster = ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 1}
			seen := f.beginLook(5)
			seen.sql = filled[ha.SQL](t)
			c.meanwhile(&f)
			f.takeLook(&seen)
			want := ha.SQL{}
			if c.taken {
				want = filled[ha.SQL](t)
				want.SeenAt = 5
			}
			if !reflect.DeepEqual(f.server.SQL, want) {
				t.Errorf("known: %+v, want %+v", f.server.SQL, want)
			}
		})
	}
}

// TestFilesAreTakenOverWhole: each field of what the files say is known after it; a
// promise that was made meanwhile is not taken back.
func TestFilesAreTakenOverWhole(t *testing.T) {
	var f facts
	f.server.Process, f.server.Promise, f.server.PromisedTo = ha.ProcessStopped, 9, "n9"
	before, changes := f.beginInspect()
	files := filled[ha.Files](t)
	f.takeFiles(&before, changes, files)
	files.Promise, files.PromisedTo = 9, "n9"
	if v := &f.server; !reflect.DeepEqual(v.Files, files) || !reflect.DeepEqual(v.Position, files.End) {
		t.Errorf("known: %+v, position %+v", v.Files, v.Position)
	}
}

// TestFilesBesideAnOperation: the files were read, slowly, while an operation changed
// them. What it made of them is what is known, and no more what they were: a deposed
// primary that had just been started as a standby was stopped and started again for that,
// at the moment at which its successor took its first writes.
func TestFilesBesideAnOperation(t *testing.T) {
	start := ha.Action{Kind: ha.Start}
	for name, meanwhile := range map[string]func(f *facts){
		"it began": func(f *facts) { f.begin(start, 5); f.learn(func(v *ha.Server) { apply(v, start, Learned{}, 6) }) },
		"it was": func(f *facts) {
			f.begin(start, 5)
			f.learn(func(v *ha.Server) { apply(v, start, Learned{}, 6) })
			f.end(ha.Start)
		},
		"it began and runs": func(f *facts) { f.begin(start, 5); f.takeProcess(running, 6) },
		"it ended": func(f *facts) {
			f.learn(func(v *ha.Server) { apply(v, start, Learned{}, 6) })
			f.end(ha.Start)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := facts{server: ha.Server{Postmaster: ha.Postmaster{Process: ha.ProcessStopped}, Files: ha.Files{DataDir: ha.DataPresent, WasPrimary: true}}}
			if name == "it ended" {
				f.begin(start, 4)
			}
			before, changes := f.beginInspect()
			meanwhile(&f)
			f.takeFiles(&before, changes, ha.Files{DataDir: ha.DataPresent, WasPrimary: true})
			if f.server.WasPrimary {
				t.Error("a server that was started as a standby is said to be a primary")
			}
		})
	}
}

var running = GuardStatus{Postmaster: ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 7}}

// TestSuccessComesLate: an action has succeeded, and meanwhile the server has ended: what
// the success says of it by SQL is not known of a server that does not run, whatever the
// action. And the checkpoint of a standby is none of the timeline on which it leads since.
func TestSuccessComesLate(t *testing.T) {
	position := Learned{Position: ha.Position{TLI: 2, LSN: 100}, SyncAt: 3}
	set := ha.SyncSetting{K: 1, Names: []string{"n2"}}
	kinds := []ha.ActionKind{ha.Checkpoint}
	for kind := ha.Init; kind.OnServer(); kind++ {
		kinds = append(kinds, kind)
	}
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			f := facts{server: ha.Server{Postmaster: ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 1}, SQL: ha.SQL{InRecovery: ha.Yes, SeenAt: 1, Receiving: ha.Yes}}}
			before, _ := f.now()
			f.takeProcess(GuardStatus{Postmaster: ha.Postmaster{Process: ha.ProcessStopped, StartedAt: 1, ExitedAt: 5}}, 5)
			f.succeeded(&before, ha.Action{Kind: kind, Sync: set, Term: 2, From: "n2", Primary: true}, position, 6)
			v, _ := f.now()
			v.Sync = ha.SyncSetting{} // a file keeps it
			if want := (ha.SQL{SyncUnsure: true}); !reflect.DeepEqual(v.SQL, want) {
				t.Errorf("known of a server that has ended: %+v", v.SQL)
			}
		})
	}
	for name, c := range map[string]struct {
		meanwhile func(v *ha.Server)
		counts    bool
	}{
		"a primary's":                 {func(*ha.Server) {}, true},
		"a standby's, promoted since": {func(v *ha.Server) { v.InRecovery = ha.No }, false},
		"one of an earlier life":      {func(v *ha.Server) { v.StartedAt++ }, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := facts{server: ha.Server{Postmaster: ha.Postmaster{Process: ha.ProcessRunning}, SQL: ha.SQL{InRecovery: ha.No}}}
			if name == "a standby's, promoted since" {
				f.server.InRecovery = ha.Yes
			}
			before, _ := f.now()
			f.learn(c.meanwhile)
			f.succeeded(&before, ha.Action{Kind: ha.Checkpoint}, Learned{}, 6)
			if v, _ := f.now(); v.Checkpointed != c.counts {
				t.Errorf("a checkpoint on the timeline: %v, want %v", v.Checkpointed, c.counts)
			}
		})
	}
}

// TestStartedAs: the guard says that the server runs before the Start has ended. From
// then on it is what it was started as, and not what its files were before.
func TestStartedAs(t *testing.T) {
	for _, primary := range []bool{false, true} {
		f := facts{server: ha.Server{Postmaster: ha.Postmaster{Process: ha.ProcessStopped}, Files: ha.Files{WasPrimary: !primary}}}
		f.begin(ha.Action{Kind: ha.Start, Primary: primary, Hidden: primary}, 5)
		f.takeProcess(running, 6)
		if v, _ := f.now(); v.WasPrimary != primary || v.Hidden != primary {
			t.Errorf("started as a primary %v: was one %v, hidden %v", primary, v.WasPrimary, v.Hidden)
		}
		f.end(ha.Start)
		f.takeProcess(GuardStatus{Postmaster: ha.Postmaster{Process: ha.ProcessStopped}}, 8)
		f.learn(func(v *ha.Server) { v.WasPrimary = !primary }) // the files say so
		f.takeProcess(running, 9)                               // by itself, or by another's hand
		if v, _ := f.now(); v.WasPrimary == primary {
			t.Error("an earlier Start was taken for that of this life")
		}
	}
}

// TestStarvedIsOfAStart: a server that has not answered yet and waits for log for long
// is starved; a standby that has answered waits for log by its nature.
func TestStarvedIsOfAStart(t *testing.T) {
	for name, c := range map[string]struct {
		seenAt ha.Instant
		want   bool
	}{"starting": {0, true}, "has answered": {1, false}} {
		t.Run(name, func(t *testing.T) {
			var f facts
			f.server.Postmaster = ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 1}
			f.server.SeenAt = c.seenAt
			for _, at := range []ha.Instant{1, ha.Instant(starvedTime), 1 + ha.Instant(starvedTime)} {
				seen := f.beginLook(at)
				seen.err = ErrStarved
				f.takeLook(&seen)
			}
			if f.server.Starved != c.want {
				t.Errorf("starved: %v", f.server.Starved)
			}
		})
	}
}

// TestUnwellBesideAnOperation: that a primary does not answer, or takes no writes, is
// known also while one operation after the other waits for it. It was hidden when each
// look was begun or ended beside one, so that nobody took over from a hung disk.
func TestUnwellBesideAnOperation(t *testing.T) {
	silent, refused := errors.New("no answer"), fmt.Errorf("write: %w", context.DeadlineExceeded)
	for name, c := range map[string]struct {
		recovery  ha.Tri // before
		meanwhile func(f *facts)
		err       error // of the look
		probe     error
		failing   bool
		faulty    bool
	}{
		"it does not answer": {ha.No, func(f *facts) { f.begin(ha.Action{Kind: ha.SetSync}, 5) }, silent, nil, true, false},
		"it answers":         {ha.No, func(f *facts) { f.begin(ha.Action{Kind: ha.SetSync}, 5) }, nil, nil, false, false},
		"it takes no writes": {ha.No, func(f *facts) { f.begin(ha.Action{Kind: ha.SetSync}, 5) }, nil, refused, false, true},
		"one ended, another began": {ha.No, func(f *facts) {
			f.begin(ha.Action{Kind: ha.SetSync}, 5)
			f.end(ha.SetSync)
			f.begin(ha.Action{Kind: ha.SetSync}, 6)
		}, silent, refused, true, false},
		"it is being stopped":        {ha.No, func(f *facts) { f.begin(ha.Action{Kind: ha.Stop}, 5) }, silent, nil, false, false},
		"it was promoted in between": {ha.Yes, func(f *facts) { f.server.InRecovery = ha.No; f.begin(ha.Action{Kind: ha.SetSync}, 5) }, silent, nil, false, false},
		"it is another life":         {ha.No, func(f *facts) { f.server.StartedAt++; f.begin(ha.Action{Kind: ha.SetSync}, 5) }, silent, nil, false, false},
		"a standby beside its fence": {ha.Yes, func(f *facts) { f.begin(ha.Action{Kind: ha.Fence}, 5) }, silent, nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			var f facts
			f.server.Postmaster = ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 1}
			f.server.SeenAt, f.server.InRecovery, f.server.Writable = 1, c.recovery, ha.Yes
			for at := ha.Instant(5); at < ha.Instant(20*time.Second); at += ha.Instant(time.Second) {
				seen := f.beginLook(at)
				if seen.err = c.err; seen.err != nil {
					seen.sql = ha.SQL{}
				} else {
					f.takeProbe(&seen.probes, attempt{err: c.probe, at: at, end: at})
				}
				if f.operation == ha.NoAction {
					c.meanwhile(&f)
				}
				f.takeLook(&seen)
				if f.server.StartedAt != 1 || f.server.InRecovery != c.recovery {
					break // the next one is of what it is now
				}
			}
			if v := &f.server; (v.FailingSince != 0) != c.failing || (v.FaultyAt != 0) != c.faulty || (v.Writable == ha.No) != c.faulty {
				t.Errorf("failing since %v, faulty since %v, writable %v", v.FailingSince, v.FaultyAt, v.Writable)
			}
		})
	}
}

// TestHangs: a server hangs that answers nothing for three times as long as it took of late,
// and for hangAfter at least; not one that refuses, one that is starting, or one whose answer
// this process was not there to hear.
func TestHangs(t *testing.T) {
	const second = time.Second
	late := fmt.Errorf("look: %w", context.DeadlineExceeded)
	for name, c := range map[string]struct {
		hangAfter time.Duration
		usual     time.Duration // what an answer took before
		starting  bool
		err       error
		stood     time.Duration // of each look, in which this process did not run
		silent    time.Duration
		want      bool
	}{
		"it is silent":               {second, 10 * time.Millisecond, false, late, 0, second, true},
		"it is not silent for long":  {second, 10 * time.Millisecond, false, late, 0, second - 1, false},
		"its answers were slow":      {second, 500 * time.Millisecond, false, late, 0, 1400 * time.Millisecond, false},
		"longer than three of those": {second, 500 * time.Millisecond, false, late, 0, 1500 * time.Millisecond, true},
		"it refuses":                 {second, 10 * time.Millisecond, false, ErrRefused, 0, 2 * second, false},
		"this process was not there": {second, 10 * time.Millisecond, false, late, 700 * time.Millisecond, 2 * second, false},
		"nor was it before the end":  {second, 10 * time.Millisecond, false, late, 300 * time.Millisecond, 1500 * time.Millisecond, false},
		"it was there for long":      {second, 10 * time.Millisecond, false, late, 200 * time.Millisecond, 2 * second, true},
		"it has never answered":      {second, 0, true, late, 0, 2 * second, false},
		"nobody wants to know":       {0, 10 * time.Millisecond, false, late, 0, 2 * second, false},
	} {
		f := facts{hangAfter: c.hangAfter}
		f.server.Postmaster = ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 1}
		look := func(at ha.Instant, took time.Duration, err error, stood time.Duration) {
			seen := f.beginLook(at)
			seen.err, seen.end, seen.stood = err, at.Add(took), stood
			f.takeLook(&seen)
		}
		if !c.starting {
			look(5, c.usual, nil, 0)
		}
		began := ha.Instant(5).Add(second)
		look(began, c.silent/2, c.err, c.stood)
		look(began.Add(c.silent/2), c.silent-c.silent/2, c.err, c.stood)
		if f.server.Hangs != c.want {
			t.Errorf("%s: hangs %v, want %v", name, f.server.Hangs, c.want)
		}
		if look(began.Add(2*c.silent), time.Millisecond, nil, 0); f.server.Hangs {
			t.Errorf("%s: it answers, and hangs", name)
		}
	}
}

// TestSessionsUsed: a server whose sessions were all used has started, also while it says something
// else as they become free, until it is seen, or another one is started in its place. Its silence
// is counted from the last refusal on, and it is not taken for one that hangs.
func TestSessionsUsed(t *testing.T) {
	late := context.DeadlineExceeded
	for _, answered := range []bool{false, true} {
		f := facts{hangAfter: 1}
		f.server.Postmaster = ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 1}
		if answered {
			f.server.SeenAt, f.server.InRecovery, f.server.Writable = 1, ha.No, ha.Yes
		}
		for i, c := range []struct {
			err   error
			used  bool
			since ha.Instant // of the silence
		}{{ErrFull, true, 10}, {ErrFull, true, 10}, {late, true, 30}, {late, true, 30}, {ErrFull, true, 30}, {late, true, 60}, {ErrRefused, true, 60}, {nil, false, 0}} {
			seen := f.beginLook(ha.Instant(10 * (i + 1)))
			seen.err, seen.end = c.err, seen.at.Add(9)
			f.takeLook(&seen)
			if v := &f.server; v.SessionsUsed != c.used || v.FailingSince != c.since || v.Hangs {
				t.Errorf("answered %v, look %d, %v: used %v, silent since %v, hangs %v, want %v, %v", answered, i, c.err, v.SessionsUsed, v.FailingSince, v.Hangs, c.used, c.since)
			}
		}
	}
}

// TestWritesHang: a disk hangs that takes no write for three times as long as one took of
// late, and for twice hangAfter at least; not one that is full, and not while this process did
// not run. After hungTime it does whatever it took before.
func TestWritesHang(t *testing.T) {
	const second = time.Second
	late, full := fmt.Errorf("write: %w", context.DeadlineExceeded), fmt.Errorf("write: %w", ErrMachine)
	for name, c := range map[string]struct {
		hangAfter time.Duration
		usual     time.Duration // what a write took before
		err       error
		stood     time.Duration
		after     int // probes of a second, of which the last is the first that hangs; 0: none of 9
	}{
		"it hangs":                   {second, 10 * time.Millisecond, late, 0, 2},
		"its writes were slow":       {second, 1100 * time.Millisecond, late, 0, 4},
		"it is full":                 {second, 10 * time.Millisecond, full, 0, 0},
		"this process was not there": {second, 10 * time.Millisecond, late, 800 * time.Millisecond, 0},
		"it was there for half":      {second, 10 * time.Millisecond, late, 500 * time.Millisecond, 4},
		"another is under way":       {second, 10 * time.Millisecond, ErrOccupied, 0, 0},
		"nobody wants to know":       {0, 10 * time.Millisecond, late, 0, 0},
	} {
		f := facts{hangAfter: c.hangAfter}
		var p ha.Probes
		at := ha.Instant(5)
		probe := func(took time.Duration, err error, stood time.Duration) {
			f.takeProbe(&p, attempt{err: err, at: at, end: at.Add(took), stood: stood})
			at = at.Add(took)
		}
		probe(c.usual, nil, 0)
		first := 0
		for n := 1; n <= 9; n++ {
			if probe(second, c.err, c.stood); p.WritesHang && first == 0 {
				first = n
			}
		}
		if first != c.after {
			t.Errorf("%s: hangs from probe %d on, want %d", name, first, c.after)
		}
		probe(2*second, c.err, 0)
		if probe(2*second, c.err, 0); p.WritesHang != (c.err != full) {
			t.Errorf("%s: after %v hangs: %v", name, hungTime, p.WritesHang)
		}
		if probe(time.Millisecond, nil, 0); p.WritesHang || p.Writable != ha.Yes {
			t.Errorf("%s: it takes writes, and hangs", name)
		}
	}
}

// TestUnmade: why no data were made is known until they are, whatever the files say.
func TestUnmade(t *testing.T) {
	var f facts
	seen := func() string {
		before, _ := f.now()
		f.takeFiles(&before, f.changes, ha.Files{DataDir: ha.DataAbsent})
		v, _ := f.now()
		return v.Problem
	}
	f.ended(ha.Init, errors.New("no repository"))
	f.ended(ha.Checkpoint, errors.New("no connection"))
	if got := seen(); got != "no repository" {
		t.Errorf("problem %q", got)
	}
	f.ended(ha.Init, nil)
	if got := seen(); got != "" {
		t.Errorf("problem %q after it was made", got)
	}
}
