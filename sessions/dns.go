package sessions

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// dnsInterval is between two looks at DNS, and dnsTimeout bounds one.
	dnsInterval = 10 * time.Second
	dnsTimeout  = 2 * time.Second
	// dnsPort is where an agent answers DNS unless it is told otherwise.
	dnsPort = "8600"
)

// errEmptyDNS: DNS does not find what the catalog has.
var errEmptyDNS = errors.New("consul's DNS does not find the service, though its API shows it")

// dnsServer is where the local agent answers DNS, as far as is known; empty: nobody
// knows. Beside the usual ports of HTTP is the usual one of DNS.
func (o *Options) dnsServer() string {
	if o.DNS != "" || o.Datacenter != "" || o.Token == "" && o.TokenFile == "" {
		return o.DNS
	}
	first := o.Addresses[0]
	for _, scheme := range []string{"http://", "https://"} {
		first = strings.TrimPrefix(first, scheme)
	}
	host, port, err := net.SplitHostPort(strings.TrimSuffix(first, "/"))
	if err != nil || port != "8500" && port != "8501" {
		return ""
	}
	return net.JoinHostPort(host, dnsPort)
}

// watchDNS asks the local agent's DNS for the service, where ACLs are on, now and then:
// it asks Consul with another token than this member's, and answers that there is nothing
// when that one may not read it.
func (c *Client) watchDNS(ctx context.Context) {
	server := c.opts.dnsServer()
	if server == "" {
		return
	}
	empty := 0
	for ctx.Err() == nil {
		pause(ctx, dnsInterval, nil)
		there := c.passing()
		found, known := c.findByDNS(ctx, server)
		switch {
		case !known || !there || !c.passing():
			continue // nothing is learned
		case found:
			empty = 0
		default:
			empty++
		}
		// Of one look the catalog may not have known yet.
		var err error
		if empty > 1 {
			err = fmt.Errorf("%w: the token that its agents ask DNS with (acl.tokens.dns, else acl.tokens.default, else the anonymous one) lacks the rules: "+
				"%s node_prefix \"\" { policy = \"read\" }", errEmptyDNS, c.needService("read"))
		}
		c.fault(areaDNS, err)
	}
}

// passing reports whether the catalog has an instance that DNS must answer with.
func (c *Client) passing() bool {
	return slices.ContainsFunc(c.View().Members, func(m Member) bool { return m.Status == api.HealthPassing })
}

// findByDNS asks whether DNS knows the service; known is whether it answered.
func (c *Client) findByDNS(ctx context.Context, server string) (found, known bool) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server)
	}}
	addresses, err := resolver.LookupHost(ctx, c.opts.Service+".service.consul.")
	if missing := (*net.DNSError)(nil); errors.As(err, &missing) && missing.IsNotFound {
		return false, true
	}
	return len(addresses) > 0, err == nil
}
