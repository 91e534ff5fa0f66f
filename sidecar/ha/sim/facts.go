package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Facts are what one member observes at one moment, made by hand: what is not
// set is as in a cluster that is well.
type Facts struct {
	ha.Observation
	State ha.State // what it remembers
}

// FactsNow is the moment of all Facts; what they say was seen just then.
const FactsNow = ha.Instant(1000 * time.Second)

// ErrFact is returned for a fact that there is none of, or a value that it cannot
// have.
var ErrFact = errors.New("no such fact or value")

// Views are the names of what NewFacts makes.
func Views() []string {
	return []string{"leading", "following", "electing", "promoting", "founding", "relaying"}
}

// NewFacts are the facts of n1, which leads term 3 of three members (leading); of
// n2, which follows it (following), or stands in the election of term 4 and has
// the votes (electing), or has claimed its timeline (promoting); of n1 before
// there is a record (founding); or of n1, which leads a standby cluster (relaying).
func NewFacts(view string) (Facts, error) {
	switch view {
	case "leading":
		return Facts{Observation: Leading()}, nil
	case "following":
		return Facts{Observation: Following()}, nil
	case "electing":
		return Facts{Observation: Electing()}, nil
	case "promoting":
		return Facts{Observation: Promoting()}, nil
	case "founding":
		return Facts{Observation: founding()}, nil
	case "relaying":
		return Facts{Observation: relaying()}, nil
	}
	return Facts{}, fmt.Errorf("%s: %w: there are %s", view, ErrFact, strings.Join(Views(), ", "))
}

// ReadFacts makes the facts of a view that differ as the lines say: a fact, " = ",
// and its value on each.
func ReadFacts(view, lines string) (Facts, error) {
	f, err := NewFacts(view)
	if err != nil {
		return f, err
	}
	for line := range strings.Lines(lines) {
		path, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		if err := f.Set(path, value); err != nil {
			return f, err
		}
	}
	return f, nil
}

// Leading is what n1 observes, which leads term 3 of three members, all well.
func Leading() ha.Observation {
	const now = FactsNow
	at := func(lsn ha.LSN) ha.Position { return ha.Position{TLI: 3, LSN: lsn} }
	rec := ha.Record{Version: 1, Index: 7, SystemID: "1", Term: 3, Leader: "n1", Phase: ha.PhaseLeading, Timeline: 3,
		Members: []string{"n1", "n2", "n3"}, Durability: ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"n2", "n3"}}, Lease: 5 * time.Second, Histories: ha.Histories{Claims: []ha.Claim{{TLI: 3, Term: 3}}}}
	sync := ha.SyncSetting{K: 1, Names: []string{"n2", "n3"}}
	o := ha.Observation{
		Now: now, Self: "n1",
		Policy: ha.Policy{Mode: ha.ModeQuorum, Standbys: 1, Strict: true, Automatic: true, FailureTimeout: 2 * time.Second,
			Lease: 5 * time.Second, StopTimeout: 10 * time.Second, HandoverTimeout: 10 * time.Second, AgentTimeout: 30 * time.Second},
		Consul: ha.Consul{SeenAt: now, Record: rec, Lock: ha.Lock{Session: "s1", Holder: "n1"}, Session: "s1", HeldAt: now, HeldTerm: 3, Reachable: ha.Yes},
		Server: ha.Server{
			Postmaster: ha.Postmaster{Process: ha.ProcessRunning, StartedAt: now - 1, Armed: true, LeaseUntil: now.Add(5 * time.Second)},
			Files:      ha.Files{DataDir: ha.DataPresent, SystemID: "1", Promise: 3, WasPrimary: true},
			SQL:        ha.SQL{SeenAt: now, InRecovery: ha.No, Position: at(100), Checkpointed: true, Sync: sync, SyncAt: 100},
			Probes:     ha.Probes{Writable: ha.Yes},
		},
		Announced: ha.Announced{Known: true, Tag: "primary", Term: 3},
	}
	for _, m := range []string{"n2", "n3"} {
		o.Peers = append(o.Peers, ha.Peer{Member: m, Link: ha.LinkUp, ReceivedAt: now, EchoSentAt: now, Report: ha.Report{
			Member: m, Term: 3, Role: ha.RoleReplica, Leader: "n1", Position: at(100), Hears: true, Streaming: true, Eligible: true,
			Session: "session of " + m, Record: ha.RecordSeen{Term: 3, Leader: "n1", Phase: ha.PhaseLeading, Index: 7}, Postgres: m + ":5432",
			ServerID: "1"}})
		o.Server.Walsenders = append(o.Server.Walsenders, ha.Walsender{Member: m, Streaming: true, Sync: true, Flush: 100, Fresh: true})
	}
	return o
}

// Following is what n2 observes in the same cluster.
func Following() ha.Observation {
	const now = FactsNow
	o := Leading()
	o.Self, o.Consul.Session, o.Announced = "n2", "session of n2", ha.Announced{Known: true, Tag: "replica", Term: 3}
	o.Server = ha.Server{
		Postmaster: ha.Postmaster{Process: ha.ProcessRunning, StartedAt: now - 1},
		Files:      ha.Files{DataDir: ha.DataPresent, SystemID: "1", Promise: 3},
		SQL:        ha.SQL{SeenAt: now, InRecovery: ha.Yes, Receiving: ha.Yes, Upstream: "n1", Position: ha.Position{TLI: 3, LSN: 100}},
	}
	o.Peers[0] = ha.Peer{Member: "n1", Link: ha.LinkUp, ReceivedAt: now, EchoSentAt: now, Report: ha.Report{Member: "n1", Term: 3,
		Role: ha.RolePrimary, Serving: true, Writable: true, Position: ha.Position{TLI: 3, LSN: 100}, Checkpointed: true,
		Record: ha.RecordSeen{Term: 3, Leader: "n1", Phase: ha.PhaseLeading, Index: 7}, Postgres: "n1:5432", ServerID: "1"}}
	return o
}

// Electing is n2 in the election of term 4, with the vote of n3.
func Electing() ha.Observation {
	const now = FactsNow
	o := Following()
	r := &o.Consul.Record
	r.Term, r.Leader, r.Phase, r.Index, r.Origin = 4, "n2", ha.PhaseElecting, 8, ha.Origin{Term: 3, Leader: "n1"}
	o.Consul.Lock = ha.Lock{Holder: "n2", Session: "session of n2", Index: 8}
	o.Consul.HeldAt, o.Consul.HeldTerm = now, 4
	v := &o.Server
	v.Receiving, v.Upstream, v.Promise, v.Fenced, v.Settled = ha.No, "", 4, true, true
	v.Sync = ha.SyncSetting{K: 1, Names: []string{"n3"}}
	o.Peers[0].Link, o.Peers[0].ReceivedAt, o.Peers[0].EchoSentAt = ha.LinkSilent, now.Add(-time.Minute), 0
	voter := &o.Peers[1].Report
	voter.Term, voter.Voted, voter.Hears, voter.Streaming, voter.Leader = 4, true, false, false, ""
	voter.Record = ha.RecordSeen{Term: 4, Leader: "n2", Phase: ha.PhaseElecting, Index: 8}
	return o
}

// Promoting is the same member once it has claimed timeline 4.
func Promoting() ha.Observation {
	o := Electing()
	o.Consul.Record.Phase, o.Consul.Record.Timeline, o.Consul.Record.Index = ha.PhasePromoting, 4, 9
	o.Consul.Record.Claims = append(slices.Clone(o.Consul.Record.Claims), ha.Claim{TLI: 4, Term: 4, Parent: 3, Low: 90})
	o.Server.Armed, o.Server.LeaseUntil = true, FactsNow.Add(5*time.Second)
	return o
}

// founding is n1 with the data of a primary, alone, and no record.
func founding() ha.Observation {
	o := Leading()
	o.Consul.Record, o.Consul.Lock, o.Consul.HeldAt, o.Consul.HeldTerm = ha.Record{}, ha.Lock{}, 0, 0
	o.Server.Postmaster = ha.Postmaster{Process: ha.ProcessStopped}
	o.Server.Promise, o.Server.SQL, o.Server.Probes = 0, ha.SQL{}, ha.Probes{}
	o.Announced, o.Peers = ha.Announced{Known: true}, nil
	return o
}

// relaying is n1, which leads term 3 of a standby cluster: it streams from the primary of
// another site, and the others from it.
func relaying() ha.Observation {
	const now = FactsNow
	o := Leading()
	at := ha.Position{History: []ha.Fork{{TLI: 3, End: 50}}, TLI: 5, LSN: 100}
	r := &o.Consul.Record
	r.StandbyOf, r.Version, r.Claims, r.Durability, r.Timeline = "pg@dc1", ha.SiteVersion, nil, ha.Durability{Mode: ha.ModeQuorum, Voters: []string{}}, 5
	o.Policy.StandbyOf = r.StandbyOf
	o.Source = ha.Source{SeenAt: now, Address: "10.1.0.1:5432", SystemID: "1", Position: at}
	o.Server = ha.Server{
		Postmaster: ha.Postmaster{Process: ha.ProcessRunning, StartedAt: now - 1},
		Files:      ha.Files{DataDir: ha.DataPresent, SystemID: "1", Promise: 3},
		SQL: ha.SQL{SeenAt: now, InRecovery: ha.Yes, Receiving: ha.Yes, Upstream: r.StandbyOf, UpstreamAt: o.Source.Address,
			Position: at, Checkpointed: true},
	}
	for i := range o.Peers {
		o.Peers[i].Report.Position = at
	}
	o.Announced.Tag = "standby-leader"
	return o
}

// Set sets a fact. Its path is that of the field, begun at the Observation, at
// Record, Lock or State, or at a member's name, for its Peer and its Report. "none"
// is any fact's zero; an Instant is given as seconds from now, a position as
// TIMELINE/LSN, and what is made of parts as JSON.
func (f *Facts) Set(path, value string) error {
	field, err := f.field(path)
	if err != nil {
		return err
	}
	if value == "none" {
		field.SetZero()
		return nil
	}
	if err := set(field, value); err != nil {
		return fmt.Errorf("%s = %s: %w: %w", path, value, ErrFact, err)
	}
	return nil
}

func (f *Facts) field(path string) (reflect.Value, error) {
	head, rest, _ := strings.Cut(path, ".")
	at := reflect.ValueOf(&f.Observation).Elem()
	switch head {
	case "State":
		at, path = reflect.ValueOf(&f.State).Elem(), rest
	case "Record", "Lock":
		path = "Consul." + path
	}
	for i := range f.Peers {
		if f.Peers[i].Member == head {
			at, path = reflect.ValueOf(&f.Peers[i]).Elem(), rest
			first, _, _ := strings.Cut(rest, ".")
			if !at.FieldByName(first).IsValid() {
				at = reflect.ValueOf(&f.Peers[i].Report).Elem()
			}
		}
	}
	for name := range strings.SplitSeq(path, ".") {
		if at.Kind() != reflect.Struct || !at.FieldByName(name).IsValid() {
			return at, fmt.Errorf("%s: %w", path, ErrFact)
		}
		at = at.FieldByName(name)
	}
	return at, nil
}

// words are the values of facts that have names.
var words = [...]struct {
	kind  reflect.Type
	words []string
}{
	{reflect.TypeFor[ha.Process](), []string{"unknown", "stopped", "running"}},
	{reflect.TypeFor[ha.DataDir](), []string{"unknown", "absent", "present", "half-made", "foreign"}},
	{reflect.TypeFor[ha.Link](), []string{"unknown", "up", "silent", "refused"}},
	{reflect.TypeFor[ha.Tri](), []string{"unknown", "no", "yes"}},
	{reflect.TypeFor[ha.ActionKind](), actionNames()},
}

func actionNames() (names []string) {
	for k := ha.NoAction; k <= ha.Exit; k++ {
		names = append(names, k.String())
	}
	return names
}

// set sets a field of any type that a fact has.
func set(field reflect.Value, value string) error {
	for i := range words {
		if words[i].kind != field.Type() {
			continue
		}
		for n, word := range words[i].words {
			if word == value {
				field.SetUint(uint64(n))
				return nil
			}
		}
		return fmt.Errorf("one of %s", strings.Join(words[i].words, ", "))
	}
	switch x := field.Addr().Interface().(type) {
	case *ha.Instant:
		if value == "never" {
			*x = 0
			return nil
		}
		d, err := time.ParseDuration(value)
		*x = FactsNow.Add(d)
		return err
	case *time.Duration:
		d, err := time.ParseDuration(value)
		*x = d
		return err
	case *ha.Position:
		if strings.HasPrefix(value, "{") {
			break
		}
		_, err := fmt.Sscanf(value, "%d/%d", &x.TLI, (*uint64)(&x.LSN))
		return err
	case *bool:
		*x = value == "yes"
		if value != "yes" && value != "no" {
			return errors.New("yes or no")
		}
		return nil
	}
	switch field.Kind() {
	case reflect.String:
		field.SetString(value)
		return nil
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(value, 10, 64)
		field.SetInt(n)
		return err
	case reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(value, 10, 64)
		field.SetUint(n)
		return err
	}
	field.SetZero()
	return json.Unmarshal([]byte(value), field.Addr().Interface())
}
