package drill

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
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

// DNSPoller asks a DNS server for the primary again and again, by A and by SRV,
// and remembers every change.
type DNSPoller struct {
	// Dial connects to a DNS server; Server is its host:port.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Server string
	// Name is looked up, with a dot at its end.
	Name string
	// Interval is the time between two times of asking; 0: 2 ms. One below 10 ms
	// weighs on the server: A and SRV are then asked for in turn.
	Interval time.Duration

	mu      sync.Mutex
	answers []Answer
	asked   int
	failed  int
	cancel  context.CancelFunc
	done    chan struct{}
}

// dnsInterval is the usual Interval.
const dnsInterval = 2 * time.Millisecond

// seldom is an Interval from which on both questions are asked each time.
const seldom = 10 * time.Millisecond

// Every returns how often each of the two questions is asked: so much later than
// it began may an answer be seen.
func (p *DNSPoller) Every() time.Duration {
	if i := cmp.Or(p.Interval, dnsInterval); i < seldom {
		return 2 * i
	}
	return p.Interval
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
	tick := time.NewTicker(cmp.Or(p.Interval, dnsInterval))
	defer tick.Stop()
	questions := [...]*question{{name: p.Name, kind: dns.TypeA}, {name: p.Name, kind: dns.TypeSRV}}
	for i := 0; ; i++ {
		asked := questions[:]
		if p.Every() > p.Interval {
			asked = questions[i%2 : i%2+1]
		}
		for _, q := range asked {
			found, err := q.ask(conn, 200*time.Millisecond)
			p.note(dns.TypeToString[q.kind], found, err)
		}
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

// Ask asks once, by an A question, and notes nothing.
func (p *DNSPoller) Ask(conn net.Conn) error {
	q := question{name: p.Name, kind: dns.TypeA}
	_, err := q.ask(conn, 200*time.Millisecond)
	return err
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

// question is one that is asked again and again.
type question struct {
	name string
	kind uint16

	id     uint16
	packed []byte   // as it is sent, but for its id
	last   []byte   // the last answer as it came, without its id
	found  []string // what that says
}

// ask sends the question and waits for its answer. For A it returns the
// addresses, for SRV host:port with the address that came along; sorted, each
// once. An answer that is the last one again is not read again: asking 500 times
// a second must not cost what is measured beside it.
func (q *question) ask(conn net.Conn, timeout time.Duration) ([]string, error) {
	if err := q.send(conn, timeout); err != nil {
		return nil, fmt.Errorf("ask DNS: %w", err)
	}
	var buffer [4096]byte
	for {
		n, err := conn.Read(buffer[:])
		if err != nil {
			return nil, fmt.Errorf("ask DNS: %w", err)
		}
		if n < 2 || binary.BigEndian.Uint16(buffer[:]) != q.id {
			continue // a late answer to an earlier question
		}
		if q.last != nil && bytes.Equal(buffer[2:n], q.last) {
			return q.found, nil
		}
		answer := new(dns.Msg)
		if err := answer.Unpack(buffer[:n]); err != nil {
			return nil, fmt.Errorf("ask DNS: %w", err)
		}
		if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
			return nil, fmt.Errorf("ask DNS: %s", dns.RcodeToString[answer.Rcode])
		}
		q.last, q.found = bytes.Clone(buffer[2:n]), addresses(answer)
		return q.found, nil
	}
}

// send sends the question with an id of its own.
func (q *question) send(conn net.Conn, timeout time.Duration) error {
	if q.packed == nil {
		m := new(dns.Msg)
		m.SetQuestion(q.name, q.kind)
		m.SetEdns0(4096, false)
		packed, err := m.Pack()
		if err != nil {
			return err
		}
		q.id, q.packed = m.Id, packed
	}
	q.id++
	binary.BigEndian.PutUint16(q.packed, q.id)
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := conn.Write(q.packed)
	return err
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
			host := cmp.Or(byName[strings.ToLower(rr.Target)], rr.Target)
			found = append(found, net.JoinHostPort(host, strconv.Itoa(int(rr.Port))))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
