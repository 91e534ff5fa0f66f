package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
)

// uplink is the interface in a site's bridge that leads to what is between the sites.
const uplink = "wan"

// makeWAN joins the bridges of both sites, and the witness's host, in a bridge of its own:
//
//	br0 of dc1 ── wan ── dc1 ┐
//	br0 of dc2 ── wan ── dc2 ┤ br0 (Plan.Site.WAN)
//	   eth0 of witness ──────┘
//
// Two of its ports that are isolated reach the witness, and not each other: so the sites
// are cut off from each other alone.
func (l *Lab) makeWAN(ctx context.Context) error {
	between := []string{"link add br0 type bridge", "link set br0 up", "link set lo up"}
	for _, site := range l.Sites() {
		between = append(between, fmt.Sprintf("link add %s type veth peer name %s netns %s", site.Name(), uplink, site.plan.Bridge),
			fmt.Sprintf("link set %s master br0 up", site.Name()))
	}
	if h, ok := l.plan.Witness(); ok {
		between = append(between, fmt.Sprintf("link add %s type veth peer name eth0 netns %s", h.Name, h.Namespace),
			fmt.Sprintf("link set %s master br0 up", h.Name))
	}
	if err := ipBatch(ctx, l.plan.Site.WAN, between); err != nil {
		return err
	}
	for _, site := range l.Sites() {
		if err := ipBatch(ctx, site.plan.Bridge, []string{"link set " + uplink + " master br0 up"}); err != nil {
			return err
		}
	}
	return nil
}

// makeNetworks makes the networks of all sites, and what is between them.
func (l *Lab) makeNetworks(ctx context.Context, progress func(string)) error {
	if l.other == nil {
		return l.makeNetwork(ctx)
	}
	if err := l.other.makeNetwork(ctx); err != nil {
		return err
	}
	if err := l.makeNetwork(ctx); err != nil {
		return err
	}
	return l.slowWAN(ctx, progress)
}

// slowWAN puts delay and loss between the sites: everything that a site sends to another, or
// to the witness, arrives WANDelay later. Where the kernel has no netem, this process passes
// the frames on itself, unless it is not to stay: then there is no delay.
func (l *Lab) slowWAN(ctx context.Context, progress func(string)) error {
	for _, site := range l.Sites() {
		if err := loseFrames(ctx, site.plan.Bridge, uplink, WANLoss, "egress"); err != nil {
			return err
		}
		err := run(ctx, "", "tc", "-n", site.plan.Bridge, "qdisc", "replace", "dev", uplink, "root", "netem", "delay", WANDelay.String())
		if err == nil {
			continue
		}
		if !strings.Contains(err.Error(), "qdisc kind is unknown") {
			return err
		}
		if l.detached {
			progress("this kernel has no netem: with --detach there is no delay between the sites")
			return nil
		}
		r, err := startRelay(ctx, l.plan.Site.WAN, site.Name(), WANDelay)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.relays[site.Name()] = r
		l.mu.Unlock()
	}
	return nil
}

// CutSites cuts the sites off from each other: both still reach the witness, if there is one.
func (l *Lab) CutSites(ctx context.Context) error { return l.isolateSites(ctx, "on") }

func (l *Lab) isolateSites(ctx context.Context, state string) error {
	if l.other == nil {
		return ErrOneSite
	}
	var commands []string
	for _, site := range l.Sites() {
		port := site.Name()
		if _, outer := relayLinks(port); l.between(outer) {
			port = outer // the relay's end is the bridge's port
		}
		commands = append(commands, fmt.Sprintf("link set %s type bridge_slave isolated %s", port, state))
	}
	return ipBatch(ctx, l.plan.Site.WAN, commands)
}

// between reports whether there is an interface between the sites.
func (l *Lab) between(name string) bool {
	return within(l.plan.Site.WAN, func() error {
		_, err := net.InterfaceByName(name)
		return err
	}) == nil
}

// SiteDown takes away the site's way out: its hosts reach each other, and nobody else.
func (l *Lab) SiteDown(ctx context.Context) error {
	if l.other == nil {
		return ErrOneSite
	}
	return ip(ctx, "-n", l.plan.Bridge, "link", "set", uplink, "down")
}

// LoseSite is a site without power: its way out first, so that nobody sends a farewell, and
// then all that runs there.
func (l *Lab) LoseSite(ctx context.Context) error {
	if err := l.SiteDown(ctx); err != nil {
		return err
	}
	return l.eachHost(func(h Host) error { return l.KillHost(ctx, h.Name) })
}

// StartSite has power come back at a site.
func (l *Lab) StartSite(ctx context.Context) error {
	if err := l.healWAN(ctx); err != nil {
		return err
	}
	return l.eachHost(func(h Host) error { return l.StartHost(ctx, h.Name) })
}

// eachHost does something to each host of the site, not to the witness.
func (l *Lab) eachHost(do func(Host) error) error {
	var errs []error
	for _, h := range l.plan.Hosts {
		if h.Kind != KindWitness {
			errs = append(errs, do(h))
		}
	}
	return errors.Join(errs...)
}

// healWAN joins the sites again, and both to the witness.
func (l *Lab) healWAN(ctx context.Context) error {
	if l.other == nil {
		return nil
	}
	errs := []error{l.isolateSites(ctx, "off")}
	for _, site := range l.Sites() {
		errs = append(errs, ip(ctx, "-n", site.plan.Bridge, "link", "set", uplink, "up"))
	}
	return errors.Join(errs...)
}

// loseFrames loses a share (0 to 1) of what passes an interface.
//
// A classic BPF program decides by itself (direct-action): a random number below the limit
// means TC_ACT_SHOT (2), else TC_ACT_OK (0). The load is the kernel's SKF_AD_OFF +
// SKF_AD_RANDOM. It needs no netem.
func loseFrames(ctx context.Context, namespace, link string, share float64, directions ...string) error {
	limit := uint32(share * 0xffffffff)
	program := fmt.Sprintf("4,32 0 0 4294963256,53 1 0 %d,6 0 0 2,6 0 0 0", limit)
	if err := run(ctx, "", "tc", "-n", namespace, "qdisc", "add", "dev", link, "clsact"); err != nil {
		return err
	}
	for _, direction := range directions {
		if err := run(ctx, "", "tc", "-n", namespace, "filter", "add", "dev", link, direction, "bpf", "da", "bytecode", program); err != nil {
			return err
		}
	}
	return nil
}
