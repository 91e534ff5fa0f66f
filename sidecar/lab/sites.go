package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Sited says whose cluster a lab's follows, and which of two sites it is.
type Sited struct {
	Other *OtherSite `json:"other,omitempty"` // that it follows from the beginning; nil: none
	Site  *Site      `json:"site,omitempty"`  // of a lab of two sites; nil: there is one
}

// Site is one of the two sites of a lab. Each is a Lab of its own, with a plan, a bridge
// and a Consul of its own; the second lies in a folder of the first, which has the witness
// and the network between them (Plan.Site.WAN), and takes both down.
type Site struct {
	Number     int    `json:"number"`     // 1 or 2
	Datacenter string `json:"datacenter"` // of its Consul
	WAN        string `json:"wan"`        // the namespace of what is between the sites
	// Servers are all Consul servers, of both sites and any witness, by their address in
	// the gossip between datacenters.
	Servers []string `json:"servers"`
}

// The datacenters of a lab of two sites, and what lies between each two.
const (
	firstDatacenter   = "dc1"
	secondDatacenter  = "dc2"
	WitnessDatacenter = "dc3"

	WANDelay = 30 * time.Millisecond // each way
	WANLoss  = 0.001                 // of the frames that a site sends
	wanPort  = 8302                  // of Consul's gossip between datacenters
)

// ErrOneSite is returned by what needs two sites.
var ErrOneSite = errors.New("this lab has one site (lab up --sites 2, as root)")

// checkSites returns why there cannot be so many sites.
func (o Options) checkSites() error {
	switch {
	case o.Sites < 0 || o.Sites > 2:
		return fmt.Errorf("%w: %d sites; 1 or 2", ErrOption, o.Sites)
	case o.Sites == 2 && (!o.Isolated || o.Breakable || o.Backup || o.Agent != nil || o.Other != nil):
		return fmt.Errorf("%w: two sites need network namespaces (--isolated), and go with neither --breakable nor --backup", ErrOption)
	case o.Unwitnessed && o.Sites != 2:
		return fmt.Errorf("%w: one site has no witness", ErrOption)
	}
	return nil
}

// Datacenter is the name of the Consul of a host.
func (p *Plan) Datacenter(h Host) string {
	switch {
	case h.Kind == KindWitness:
		return WitnessDatacenter
	case p.Site != nil:
		return p.Site.Datacenter
	}
	return firstDatacenter
}

// otherDatacenter is the other site's; empty: there is none.
func (p *Plan) otherDatacenter() string {
	switch {
	case p.Site == nil:
		return ""
	case p.Site.Number == 1:
		return secondDatacenter
	}
	return firstDatacenter
}

// Witness returns the host of the third Consul; false: there is none. It is in the first
// site's plan.
func (p *Plan) Witness() (Host, bool) {
	of := p.of(KindWitness)
	if len(of) == 0 {
		return Host{}, false
	}
	return of[0], true
}

// Other returns the lab of the other site; nil: there is one site.
func (l *Lab) Other() *Lab { return l.other }

// Sites returns the labs of all sites, the first one first.
func (l *Lab) Sites() []*Lab {
	switch {
	case l.other == nil:
		return []*Lab{l}
	case l.plan.Site.Number == 2:
		return []*Lab{l.other, l}
	}
	return []*Lab{l, l.other}
}

// SiteOf returns the lab of the site that has the host; this one: none has.
func (l *Lab) SiteOf(host string) *Lab {
	for _, site := range l.Sites() {
		if _, err := site.plan.Host(host); err == nil {
			return site
		}
	}
	return l
}

// Name is what a site is called: its datacenter.
func (l *Lab) Name() string { return l.plan.Datacenter(l.plan.App()) }

// secondMembers is how many members the second site has at most: two cores bear five.
const secondMembers = 2

// addSite lays out a second site, whose cluster follows the first's, and perhaps a witness.
func (l *Lab) addSite(witness bool) error {
	first := l.plan
	second := *first
	var err error
	if second.ID, err = newID(); err != nil {
		return err
	}
	second.Dir, second.Hosts = filepath.Join(first.Dir, secondDatacenter), nil
	wan := "pgl" + first.ID + "-wan"
	first.Site, second.Site = &Site{Number: 1, Datacenter: firstDatacenter, WAN: wan}, &Site{Number: 2, Datacenter: secondDatacenter, WAN: wan}
	second.Other = &OtherSite{Dir: first.Dir, Service: first.Cluster, Datacenter: firstDatacenter}
	second.addHosts(len(first.Servers()), min(len(first.Members()), secondMembers), first)
	if witness {
		second.Other.Witness = WitnessDatacenter
		first.Hosts = append(first.Hosts, Host{Name: "witness", Kind: KindWitness, Address: "10.213.2.10", Dir: filepath.Join(first.Dir, "witness"),
			Namespace: "pgl" + first.ID + "-witness"})
	}
	if err := errors.Join(first.givePorts(), second.givePorts()); err != nil {
		return err
	}
	for _, h := range slices.Concat(first.Hosts, second.Hosts) {
		if h.Kind == KindConsul || h.Kind == KindWitness {
			first.Site.Servers = append(first.Site.Servers, net.JoinHostPort(h.Address, strconv.Itoa(wanPort)))
		}
	}
	second.Site.Servers = first.Site.Servers
	l.other = &Lab{plan: &second, detached: l.detached, log: l.log, relays: map[string]*relay{}, other: l}
	return nil
}

// openSite opens the second site of a lab that is there. It may not have been made yet, or
// be removed already.
func (l *Lab) openSite() error {
	if l.plan.Site == nil || l.plan.Site.Number != 1 {
		return nil
	}
	second, err := Open(filepath.Join(l.plan.Dir, secondDatacenter), l.log)
	if errors.Is(err, ErrNoLab) {
		return nil
	}
	if err != nil {
		return err
	}
	l.other, second.other = second, l
	return nil
}

// cleanOther cleans the second site, whose folder is in the first's.
func (l *Lab) cleanOther(ctx context.Context) error {
	if l.other == nil || !l.ownsWAN() {
		return nil
	}
	if _, err := os.Stat(l.other.plan.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil // not made, or removed
	}
	return l.other.clean(ctx)
}

// nameOther tells the first site's cluster of the second, as soon as it takes writes: it
// cannot name it before, or it would wait for data to copy.
func (l *Lab) nameOther(ctx context.Context) error {
	_, err := l.WaitRecord(ctx, func(r ha.Record) bool { return r.Phase == ha.PhaseLeading })
	if err != nil {
		return err
	}
	command := []string{"settings", "set", "standby_of.service=" + l.plan.Cluster, "standby_of.datacenter=" + secondDatacenter, "--yes"}
	if _, witnessed := l.plan.Witness(); witnessed {
		command = append(command, "standby_of.witness="+WitnessDatacenter)
	}
	var last error
	err = every(ctx, 500*time.Millisecond, func() (bool, error) {
		_, last = l.Pgsidecar(ctx, l.plan.Members()[0].Name, "yes", command...)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("tell the first site of the second: %w", errors.Join(err, last))
	}
	return nil
}

// Leading returns the site that takes the writes, as both records say: of two that do, the
// one of the later epoch. It asks until there is one.
func (l *Lab) Leading(ctx context.Context) (leading *Lab, err error) {
	if l.other == nil {
		return l, nil
	}
	var last error
	err = every(ctx, 100*time.Millisecond, func() (bool, error) {
		var epoch uint64
		for _, site := range l.Sites() {
			r, err := site.askRecord(ctx)
			if err != nil {
				last = err
				continue
			}
			if r.Leader != "" && r.StandbyOf == "" && (leading == nil || r.Epoch > epoch) {
				leading, epoch = site, r.Epoch
			}
		}
		return leading != nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("look which site takes the writes: %w", errors.Join(err, last))
	}
	return leading, nil
}

// askRecord asks a site's Consul once for its cluster's record.
func (l *Lab) askRecord(ctx context.Context) (ha.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return l.Record(ctx)
}

// waitSites is WaitReady of two sites.
func (l *Lab) waitSites(ctx context.Context) error {
	leading, err := l.Leading(ctx)
	if err != nil {
		return err
	}
	if err := leading.waitWhole(ctx); err != nil {
		return fmt.Errorf("%s: %w", leading.Name(), err)
	}
	return leading.other.WaitFollows(ctx)
}

// WaitFollows waits until all members of this site stream, its leader from the other site's
// primary, and have all that this one had when the call began; and until the other site
// knows of it.
func (l *Lab) WaitFollows(ctx context.Context) error {
	ctx, stop := l.whileSidecarsRun(ctx)
	defer stop()
	var why error
	var mark string
	err := every(ctx, 200*time.Millisecond, func() (bool, error) {
		if mark == "" {
			mark, why = l.other.position(ctx)
		}
		if mark != "" {
			why = l.follows(ctx, mark)
		}
		return mark != "" && why == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait until %s follows %s: %w", l.Name(), l.other.Name(), errors.Join(err, why))
	}
	return nil
}

// position returns where the log of the site's primary ends.
func (l *Lab) position(ctx context.Context) (mark string, err error) {
	r, err := l.askRecord(ctx)
	if err != nil {
		return "", err
	}
	return mark, l.query(ctx, r.Leader, &mark, "SELECT pg_current_wal_flush_lsn()::text")
}

// follows returns why the site does not follow the other; nil: it does.
func (l *Lab) follows(ctx context.Context, mark string) error {
	r, err := l.askRecord(ctx)
	if err != nil {
		return err
	}
	if r.StandbyOf == "" || r.Phase != ha.PhaseLeading || len(r.Members) != len(l.plan.Members()) {
		return fmt.Errorf("its record says: leader %s, %s, standby of %q, members %s", r.Leader, r.Phase, r.StandbyOf, strings.Join(r.Members, " "))
	}
	for _, m := range l.plan.Members() {
		var streams bool
		err := l.query(ctx, m.Name, &streams, `SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')
			AND coalesce(pg_last_wal_receive_lsn() >= $1::pg_lsn, false)`, mark)
		if err != nil {
			return err
		}
		if !streams {
			return fmt.Errorf("%s does not stream, or lacks some of what the other site had", m.Name)
		}
	}
	there, err := l.other.askRecord(ctx)
	if err != nil {
		return err
	}
	for _, site := range []struct {
		*Lab
		leader string
	}{{l, r.Leader}, {l.other, there.Leader}} {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		st, err := site.StatusOf(ctx, site.leader)
		cancel()
		switch {
		case err != nil:
			return err
		case st.Site == nil:
			return fmt.Errorf("%s does not know the other site yet", site.leader)
		case st.Site.WhyNot != "":
			return fmt.Errorf("%s says that %s", site.leader, st.Site.WhyNot)
		}
	}
	return nil
}

// query asks a member's server for one value.
func (l *Lab) query(ctx context.Context, member string, value any, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	config, err := l.ConnConfig(SuperuserRole, member)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", member, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, sql, args...).Scan(value); err != nil {
		return fmt.Errorf("ask %s: %w", member, err)
	}
	return nil
}
