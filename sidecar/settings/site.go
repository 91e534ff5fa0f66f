package settings

import (
	"cmp"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Site names the cluster at another site that this one follows, or will follow when that
// one takes the writes: by its service in Consul, or by its servers.
type Site struct {
	Service    string   `json:"service,omitempty"`
	Datacenter string   `json:"datacenter,omitempty"` // Consul's; empty: this one's own
	Addresses  []string `json:"addresses,omitempty"`  // of its servers, host:port; in place of Service
	// APIs are of its members, host:port, where Consul does not tell them: a planned change
	// of sites asks one of them.
	APIs []string `json:"apis,omitempty"`
	// Alone is what this site does after a start while it cannot hear the other, which may
	// take writes in its place: "open" (the default) lets clients in, "closed" does not.
	Alone string `json:"alone,omitempty"`
	// Witness is a third Consul, which both sites name: a datacenter that this site's Consul
	// reaches, or the address of an agent there with its scheme. A site is promoted without
	// the other only with its word, and, unless Alone is "open", takes writes only while it
	// has that, or hears the other.
	Witness string `json:"witness,omitempty"`
}

// Given reports whether there is another site.
func (s *Site) Given() bool { return s != nil && (s.Service != "" || len(s.Addresses) > 0) }

// Name is what the other site is called in records, logs and status. It is no member's
// name. Empty: there is none.
func (s *Site) Name() string {
	switch {
	case !s.Given():
		return ""
	case s.Service != "":
		return s.Service + "@" + cmp.Or(s.Datacenter, "local")
	}
	return "primary@addresses"
}

// Check returns what is wrong with it.
func (s *Site) Check() error {
	switch {
	case s == nil:
		return nil
	case s.Service != "" && len(s.Addresses) > 0:
		return wrong("standby_of: it has a service or addresses, not both")
	case !s.Given():
		return wrong(`standby_of: expected service = "pg", with datacenter = "dc1" if it is another one, or addresses = ["10.1.0.1:5432"]`)
	case s.Service != "" && !siteName.MatchString(s.Service):
		return wrong("standby_of.service %q: expected lower-case letters, digits and hyphens, such as \"pg\"", s.Service)
	case s.Datacenter != "" && !datacenterName.MatchString(s.Datacenter):
		return wrong("standby_of.datacenter %q: expected letters, digits, hyphens and underscores, such as \"dc1\"", s.Datacenter)
	case s.Datacenter != "" && s.Service == "":
		return wrong("standby_of.datacenter: it goes with service")
	case s.Alone != "" && s.Alone != AloneOpen && s.Alone != AloneClosed:
		return wrong("standby_of.alone %q: it is open or closed", s.Alone)
	case s.Witness != "" && !strings.Contains(s.Witness, "://") && !datacenterName.MatchString(s.Witness):
		return wrong("standby_of.witness %q: expected a third Consul, as its datacenter (\"dc3\") or the address of one of its agents (\"https://10.3.0.1:8501\")", s.Witness)
	case strings.Contains(s.Witness, "://") && !witnessAddress.MatchString(s.Witness):
		return wrong("standby_of.witness %q: expected http://host:port or https://host:port", s.Witness)
	case s.Witness != "" && s.Witness == s.Datacenter:
		return wrong("standby_of.witness %q: that is the other site's own datacenter; the witness is a third one, which both sites name", s.Witness)
	}
	if err := checkAddresses("addresses", s.Addresses, "10.1.0.1:5432"); err != nil {
		return err
	}
	return checkAddresses("apis", s.APIs, "10.1.0.1:8008")
}

func checkAddresses(key string, all []string, example string) error {
	for _, a := range all {
		host, port, err := net.SplitHostPort(a)
		if n, bad := strconv.Atoi(port); err != nil || host == "" || bad != nil || n < 1 || n > 65535 {
			return wrong("standby_of.%s %q: expected host:port, such as %q", key, a, example)
		}
	}
	return nil
}

var witnessAddress = regexp.MustCompile(`^https?://[^/]+:[0-9]+/?$`)

// What a site does that cannot hear the other.
const (
	AloneOpen   = "open"
	AloneClosed = "closed"
)

// over puts the site into a policy.
func (s *Site) over(p ha.Policy) ha.Policy {
	if s != nil {
		p.StandbyOf, p.ClosedAlone = s.Name(), s.Alone == AloneClosed || s.Alone == "" && s.Witness != ""
		p.Witness = s.Witness
	}
	return p
}

// Over returns the policy with the site that the member's own configuration names.
func (s Site) Over(p ha.Policy) ha.Policy { return s.over(p) }
