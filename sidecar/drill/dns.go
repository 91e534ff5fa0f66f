package drill

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Answer is what DNS said, from At until the next Answer of the same type.
type Answer struct {
	At        time.Time `json:"at"`
	Type      string    `json:"type"` // A or SRV
	Addresses []string  `json:"addresses"`
}

// DNSPoller asks a DNS server for the primary again and again, by A and by SRV
// in turn, and remembers every change.
type DNSPoller struct {
	// Dial connects to a DNS server; Server is its host:port.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Server string
	// Name is asked for, with a dot at its end.
	Name string
	// Interval is the time between two questions; 0: 2 ms.
	Interval time.Duration

	mu      sync.Mutex
	answers []Answer
	asked   int
	failed  int
	cancel  context.CancelFunc
	done    chan struct{}
}

// maxAnswers bounds what is remembered. Beyond it only counts go on; two
// addresses at once are always remembered.
const maxAnswers = 10_000

// Start begins to ask.
func (p *DNSPoller) Start() error {
	ctx, cancel := context.WithCancel(context.Background()) // ended by Stop
	conn, err := p.Dial(ctx, "udp", p.Server)
	if err != nil {
		cancel()
		return fmt.Errorf("reach DNS: %w", err)
	}
	p.cancel, p.done = cancel, make(chan struct{})
	go p.poll(ctx, conn)
	return nil
}

// Stop ends it and waits for that.
func (p *DNSPoller) Stop() {
	p.cancel()
	<-p.done
}

func (p *DNSPoller) poll(ctx context.Context, conn net.Conn) {
	defer close(p.done)
	defer conn.Close()
	tick := time.NewTicker(orElse(p.Interval, 2*time.Millisecond))
	defer tick.Stop()
	for i := 0; ; i++ {
		kind := [...]uint16{dns.TypeA, dns.TypeSRV}[i%2]
		found, err := ask(conn, p.Name, kind, 200*time.Millisecond)
		p.note(dns.TypeToString[kind], found, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *DNSPoller) note(kind string, found []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if err != nil {
		p.failed++ // no answer says nothing about the primary
		return
	}
	for _, a := range slices.Backward(p.answers) {
		if a.Type == kind {
			if slices.Equal(a.Addresses, found) {
				return
			}
			break
		}
	}
	if len(p.answers) < maxAnswers || len(found) > 1 {
		p.answers = append(p.answers, Answer{At: time.Now(), Type: kind, Addresses: found})
	}
}

// Answers returns every change of the answers, in order.
func (p *DNSPoller) Answers() []Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.answers)
}

// Asked returns how often the server was asked, and how often it did not
// answer.
func (p *DNSPoller) Asked() (asked, failed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked, p.failed
}

// Doubles returns the answers with more than one address.
func (p *DNSPoller) Doubles() []Answer {
	return slices.DeleteFunc(p.Answers(), func(a Answer) bool { return len(a.Addresses) < 2 })
}

// FirstSeen returns when an SRV answer first named the address (host:port) and
// nothing else, at or after a moment; zero if none did. An answer that already
// stood at that moment counts as seen then.
func (p *DNSPoller) FirstSeen(address string, after time.Time) time.Time {
	var standing bool
	for _, a := range p.Answers() {
		if a.Type != "SRV" {
			continue
		}
		match := slices.Equal(a.Addresses, []string{address})
		if a.At.Before(after) {
			standing = match
			continue
		}
		if standing {
			break
		}
		if match {
			return a.At
		}
	}
	if standing {
		return after
	}
	return time.Time{}
}

// ask sends one question and waits for its answer. For A it returns the
// addresses, for SRV host:port with the address that came along; sorted, each
// once.
func ask(conn net.Conn, name string, kind uint16, timeout time.Duration) ([]string, error) {
	question := new(dns.Msg)
	question.SetQuestion(name, kind)
	question.SetEdns0(4096, false)
	deadline := time.Now().Add(timeout)
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("ask DNS: %w", err)
	}
	c := &dns.Conn{Conn: conn, UDPSize: 4096}
	if err := c.WriteMsg(question); err != nil {
		return nil, fmt.Errorf("ask DNS: %w", err)
	}
	for {
		answer, err := c.ReadMsg()
		if err != nil {
			return nil, fmt.Errorf("ask DNS: %w", err)
		}
		if answer.Id != question.Id {
			continue // a late answer to an earlier question
		}
		if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
			return nil, fmt.Errorf("ask DNS: %s", dns.RcodeToString[answer.Rcode])
		}
		return addresses(answer), nil
	}
}

func addresses(answer *dns.Msg) []string {
	byName := map[string]string{}
	for _, rr := range answer.Extra {
		if a, ok := rr.(*dns.A); ok {
			byName[strings.ToLower(a.Hdr.Name)] = a.A.String()
		}
	}
	var found []string
	for _, rr := range answer.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			found = append(found, rr.A.String())
		case *dns.SRV:
			host := orElse(byName[strings.ToLower(rr.Target)], rr.Target)
			found = append(found, net.JoinHostPort(host, strconv.Itoa(int(rr.Port))))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func orElse[T comparable](v, standard T) T {
	var zero T
	if v == zero {
		return standard
	}
	return v
}
