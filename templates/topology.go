package templates

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Topology is who does what in one cluster, at one moment: all that a template
// or a proxy is told. It is a value; nothing in it is changed after Build.
type Topology struct {
	Cluster  string   `json:"cluster"`
	Service  string   `json:"service"`
	SystemID string   `json:"system_identifier"`
	Term     uint64   `json:"term"` // of two sites the sum of theirs
	Timeline ha.TLI   `json:"timeline"`
	Phase    ha.Phase `json:"phase"`
	// Primary is nil unless Phase is leading and the leader's address is known.
	Primary *Member `json:"primary,omitempty"`
	// Announced: the leader has been seen registered as primary in this term.
	Announced bool `json:"announced,omitempty"`
	// Held: the leader has withdrawn that registration, as it does before it is
	// stopped in order. New clients are to wait; those connected go on.
	Held bool `json:"held,omitempty"`
	// Replicas take reads, sorted by name.
	Replicas []Member `json:"replicas"`
	// Members are all there are, sorted by name, whatever they do: it is the
	// list to make static configuration of.
	Members []Member `json:"members"`
	// RoundTrip is how long it takes from here to the farthest member and back, rounded up;
	// zero: nobody has measured it.
	RoundTrip time.Duration `json:"round_trip,omitempty"`
}

// Waits reports whether clients of the primary are to wait: there is none, or
// it is about to be stopped.
func (t Topology) Waits() bool { return t.Primary == nil || t.Held }

// Member is one server and its sidecar. Its text has been checked: names and
// hosts cannot end a word of a configuration file, nor tags a line.
type Member struct {
	Name    string            `json:"name"`
	Host    string            `json:"host"` // PostgreSQL's; an IPv6 address without brackets
	Port    int               `json:"port"`
	APIHost string            `json:"api_host,omitempty"` // empty: not known
	APIPort int               `json:"api_port,omitempty"`
	Role    ha.Role           `json:"role"`
	Status  string            `json:"status"` // Consul's: passing, warning, critical; or missing
	Tags    []string          `json:"tags,omitempty"`
	Meta    map[string]string `json:"meta,omitempty"`
	// Lag is how many bytes of the primary's log the member has not replayed, where
	// LagKnown.
	Lag      uint64 `json:"lag,omitempty"`
	LagKnown bool   `json:"lag_known,omitempty"`
}

// Address returns host:port of the member's server.
func (m Member) Address() string { return net.JoinHostPort(m.Host, strconv.Itoa(m.Port)) }

// API returns host:port of the member's API, or nothing if it is not known.
func (m Member) API() string {
	if m.APIHost == "" {
		return ""
	}
	return net.JoinHostPort(m.APIHost, strconv.Itoa(m.APIPort))
}

// HasTag reports whether the member is registered with the tag.
func (m Member) HasTag(tag string) bool { return slices.Contains(m.Tags, tag) }

// Registration is one member as Consul's catalog has it.
type Registration struct {
	Name     string
	Postgres string // host:port
	API      string // host:port; may be empty
	Tags     []string
	Status   string // passing, warning, critical
	Meta     map[string]string
}

// Source is what Build makes a Topology of.
type Source struct {
	Cluster    string
	Service    string
	Record     ha.Record
	Registered []Registration
	// Lags are bytes behind the primary, by member, where known.
	Lags map[string]uint64
	// Prior is the topology before. A member that the record still names keeps
	// its address when its registration is gone or unusable: a server that is
	// only away must not vanish from static configuration.
	Prior Topology
}

// The tags that say a member's role, and the status of one that is not registered.
const (
	tagPrimary    = "primary"
	tagReplica    = "replica"
	statusMissing = "missing"
	statusBad     = "critical"
)

// Build makes the topology. With ErrTopology, which names what is wrong with
// which registration, it still returns all that is usable.
func Build(src Source) (Topology, error) {
	t := Topology{
		Cluster: src.Cluster, Service: src.Service,
		SystemID: src.Record.SystemID, Term: src.Record.Term, Timeline: src.Record.Timeline, Phase: src.Record.Phase,
		Replicas: []Member{}, Members: []Member{},
	}
	if !SafeName(src.Cluster) || !SafeName(src.Service) {
		return t, fmt.Errorf("cluster %q, service %q: %w", src.Cluster, src.Service, ErrUnsafe)
	}
	var problems []error
	for _, r := range src.Registered {
		m, err := parseMember(r)
		if err != nil {
			problems = append(problems, fmt.Errorf("member %q: %w: %w", r.Name, ErrTopology, err))
			continue
		}
		if other := t.member(m.Name); other != nil {
			problems = append(problems, fmt.Errorf("member %q is registered twice, at %s and %s: %w", r.Name, other.Address(), m.Address(), ErrTopology))
			if m.newer(*other) {
				*other = m
			}
			continue
		}
		t.Members = append(t.Members, m)
	}
	for _, m := range src.Prior.Members {
		if t.member(m.Name) == nil && (slices.Contains(src.Record.Members, m.Name) || m.Name == src.Record.Leader) {
			m.Status, m.Tags, m.Role = statusMissing, nil, ha.RoleStopped
			t.Members = append(t.Members, m)
		}
	}
	slices.SortFunc(t.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	for i := range t.Members {
		m := &t.Members[i]
		m.Lag, m.LagKnown = src.Lags[m.Name]
	}
	t.assign(src.Record)
	t.hold(src.Prior)
	return t, errors.Join(problems...)
}

// assign gives each member its role. Only the record makes a primary: a tag in
// the catalog may be old.
func (t *Topology) assign(r ha.Record) {
	for i := range t.Members {
		m := &t.Members[i]
		switch {
		case m.Name == r.Leader && r.Phase == ha.PhaseLeading:
			m.Role = ha.RolePrimary
			p := *m
			t.Primary = &p
		case m.Name == r.Leader:
			m.Role = ha.RoleCandidate
		case m.HasTag(tagReplica) && m.Status != statusBad && m.Status != statusMissing:
			m.Role = ha.RoleReplica
			t.Replicas = append(t.Replicas, *m)
		default:
			m.Role = ha.RoleStopped
		}
	}
}

// hold tells a leader that is not announced yet, whose clients need not wait
// for Consul's catalog, from one that is announced no more.
func (t *Topology) hold(prior Topology) {
	if t.Primary == nil {
		return
	}
	before := prior.Term == t.Term && prior.Announced
	if t.Primary.Status == statusMissing {
		// Its agent has left Consul, which says nothing of the server.
		t.Announced, t.Held = before, before && prior.Held
		return
	}
	own := t.Primary.Meta["term"] == strconv.FormatUint(t.Term, 10)
	t.Announced = before || own && t.Primary.HasTag(tagPrimary)
	t.Held = before && own && !t.Primary.HasTag(tagPrimary) && !t.Primary.HasTag(tagReplica)
}

// newer reports whether a registration of the same member is to be believed: one that
// it left at another node stays there, critical, until Consul reaps the node.
func (m Member) newer(other Member) bool {
	if dead, otherDead := m.Status == statusBad, other.Status == statusBad; dead != otherDead {
		return otherDead
	}
	term, _ := strconv.ParseUint(m.Meta["term"], 10, 64)          //nolint:errcheck // then it is 0
	otherTerm, _ := strconv.ParseUint(other.Meta["term"], 10, 64) //nolint:errcheck // then it is 0
	return term > otherTerm
}

func (t *Topology) member(name string) *Member {
	for i := range t.Members {
		if t.Members[i].Name == name {
			return &t.Members[i]
		}
	}
	return nil
}

func parseMember(r Registration) (Member, error) {
	m := Member{Name: r.Name, Status: r.Status, Meta: map[string]string{}}
	if !SafeName(r.Name) {
		return m, fmt.Errorf("its name is not a plain word: %w", ErrUnsafe)
	}
	var err error
	if m.Host, m.Port, err = parseAddress(r.Postgres); err != nil {
		return m, fmt.Errorf("server's address %q: %w", r.Postgres, err)
	}
	if r.API != "" {
		if m.APIHost, m.APIPort, err = parseAddress(r.API); err != nil {
			return m, fmt.Errorf("API's address %q: %w", r.API, err)
		}
	}
	for _, tag := range r.Tags {
		if OneLine(tag) {
			m.Tags = append(m.Tags, tag)
		}
	}
	slices.Sort(m.Tags)
	for k, v := range r.Meta {
		if OneLine(k) && OneLine(v) {
			m.Meta[k] = v
		}
	}
	return m, nil
}

var (
	nameSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
	hostSyntax = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?)*$`)
)

// SafeName reports whether s may stand as one word in every file that this
// package writes: letters, digits, '_', '.' and '-', not at the start.
func SafeName(s string) bool { return nameSyntax.MatchString(s) }

// OneLine reports whether s has no control character, so that it cannot end a
// line.
func OneLine(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' })
}

// parseAddress splits host:port and returns ErrUnsafe unless the host is an IP
// address without a zone or a DNS name, and the port a number in range.
func parseAddress(s string) (string, int, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("not host:port: %w", ErrUnsafe)
	}
	ip, err := netip.ParseAddr(host)
	if err == nil && ip.Zone() != "" || err != nil && (len(host) > 253 || !hostSyntax.MatchString(host)) {
		return "", 0, fmt.Errorf("host is neither an IP address nor a DNS name: %w", ErrUnsafe)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("port is not a number from 1 to 65535: %w", ErrUnsafe)
	}
	return host, int(n), nil
}
