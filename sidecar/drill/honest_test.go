package drill_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/miekg/dns"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
)

// The tests of this file plant what a drill is to find, and look whether it
// does; and that it finds nothing where nothing is.

func writing(t *testing.T, w *drill.Writer, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.WaitAcked(ctx, n); err != nil {
		t.Fatal(err, w.Errors())
	}
}

func verify(t *testing.T, s *server, w *drill.Writer) drill.Verdict {
	t.Helper()
	v, err := drill.Verify(t.Context(), s.connect(), w)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPlantedRows(t *testing.T) {
	s := startPostgres(t)
	w := &drill.Writer{Route: s.route(), Run: 7, First: 100, Workers: 3}
	w.Start()
	writing(t, w, 300)
	labtest.Until(t, 20*time.Second, "rows of each worker", func() bool {
		var busy int
		err := s.connect().QueryRow(t.Context(), "SELECT count(*) FROM (SELECT FROM drill.writes GROUP BY worker HAVING count(*) >= 5) w").Scan(&busy)
		return err == nil && busy == 3
	})
	w.Stop()

	clean := verify(t, s, w)
	if clean.Lost != 0 || clean.Twice != 0 || clean.Strange != 0 || clean.Acked < 300 {
		t.Fatalf("nothing was planted: %+v", clean)
	}
	s.exec("DELETE FROM drill.writes WHERE worker = 101 AND seq IN (1, 2, 4)")
	if v := verify(t, s, w); v.Lost != 3 || v.LostBytes == 0 || len(v.Samples) != 2 {
		t.Errorf("three rows were taken away: %+v", v)
	}
	s.exec("DELETE FROM drill.writes WHERE worker = 102")
	if v := verify(t, s, w); v.Lost < 4 {
		t.Errorf("all rows of a worker were taken away: %+v", v)
	}
	s.exec("INSERT INTO drill.writes SELECT * FROM drill.writes WHERE worker = 100 AND seq IN (1, 2)")
	s.exec("INSERT INTO drill.writes VALUES (7, 100, 1000000), (7, 555, 1)")
	if v := verify(t, s, w); v.Twice != 2 || v.Strange != 2 {
		t.Errorf("two rows were doubled and two invented: %+v", v)
	}
}

func TestPlantedPause(t *testing.T) {
	s := startPostgres(t)
	w := &drill.Writer{Route: s.route(), Run: 8}
	w.Start()
	defer w.Stop()
	writing(t, w, 200)
	before := time.Now()

	const planted = 300 * time.Millisecond
	tx, err := s.connect().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE drill.writes IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	locked := time.Now()
	if _, err := tx.Exec(t.Context(), "SELECT pg_sleep($1)", planted.Seconds()); err != nil {
		t.Fatal(err)
	}
	held := time.Since(locked)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	writing(t, w, 200)
	pause := w.Longest(before, time.Time{})
	// A busy machine adds pauses of its own; none is taken away.
	if pause.Length() < planted || pause.Length() > held+10*time.Second {
		t.Errorf("a pause of %v was planted, %v was found", held, pause.Length())
	}
	if quiet := w.Longest(time.Time{}, before); quiet.Length() >= held+time.Second {
		t.Errorf("before it was planted, a pause of %v was found", quiet.Length())
	}
	if pause.Open || pause.From.After(locked.Add(held)) {
		t.Errorf("the pause is at %+v, planted at %v", pause, locked)
	}
}

// TestPauseWithoutEnd: a pause that nothing ends is one all the same.
func TestPauseWithoutEnd(t *testing.T) {
	nowhere := drill.Route{Name: "nowhere", Connect: func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.Connect(ctx, "host=127.0.0.1 port=1 sslmode=disable")
	}}
	w := &drill.Writer{Route: nowhere, Run: 9}
	w.Start()
	<-time.After(200 * time.Millisecond)
	if p := w.Longest(time.Time{}, time.Time{}); !p.Open || p.Length() < 190*time.Millisecond {
		t.Errorf("writes never began, and the pause is %+v", p)
	}
	w.Stop()
	if p := w.Longest(time.Time{}, time.Time{}); !p.Open || p.Length() < 190*time.Millisecond {
		t.Errorf("writes never began, and after the stop the pause is %+v", p)
	}
	if n := w.Errors()["connection refused"]; n < 10 {
		t.Errorf("errors: %v", w.Errors())
	}
}

func TestPlantedSecondPrimary(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(1_000_000 + ms)) }
	ack := func(member string, timeline uint32, sent, acked int) drill.Ack {
		return drill.Ack{Member: member, Timeline: timeline, Sent: at(sent), Acked: at(acked)}
	}
	tests := []struct {
		name string
		acks []drill.Ack
		want int
	}{
		{"one primary", []drill.Ack{ack("n1", 1, 0, 1), ack("n1", 1, 2, 3)}, 0},
		{"failover", []drill.Ack{ack("n1", 1, 0, 1), ack("n1", 1, 2, 3), ack("n2", 2, 4, 5), ack("n2", 2, 6, 7)}, 0},
		{"late answer of the old one", []drill.Ack{ack("n1", 1, 0, 1), ack("n2", 2, 4, 5), ack("n1", 1, 4, 9)}, 0},
		{"there and back", []drill.Ack{ack("n1", 1, 0, 1), ack("n2", 2, 4, 5), ack("n1", 3, 8, 9)}, 0},
		{"the old one writes on", []drill.Ack{ack("n1", 1, 0, 1), ack("n2", 2, 4, 5), ack("n1", 1, 6, 7)}, 1},
		{"reported out of order", []drill.Ack{ack("n1", 1, 6, 7), ack("n2", 2, 4, 5), ack("n1", 1, 0, 1)}, 1},
		{"two on one timeline", []drill.Ack{ack("n1", 2, 0, 1), ack("n2", 2, 4, 5), ack("n1", 2, 6, 7)}, 1},
	}
	for _, test := range tests {
		var p drill.Primaries
		for _, a := range test.acks {
			p.Add(a)
		}
		if got := p.Overlaps(); len(got) != test.want {
			t.Errorf("%s: %q, want %d", test.name, got, test.want)
		}
	}
}

// TestPlantedServers lets two real servers take writes side by side.
func TestPlantedServers(t *testing.T) {
	var p drill.Primaries
	for i, s := range []*server{startPostgres(t), startPostgres(t)} {
		w := &drill.Writer{Route: s.route(), Run: 11, First: i * 10, Workers: 1, Direct: true, Interval: time.Millisecond, Primaries: &p}
		w.Start()
		defer w.Stop()
		writing(t, w, 5)
		if i == 1 {
			writing(t, w, 5)
		}
	}
	overlap := func() bool { return len(p.Overlaps()) > 0 }
	for range 200 {
		if overlap() {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	if !overlap() {
		t.Errorf("two servers take writes, and nobody noticed: %+v", p.Reigns())
	}
}

// nameServer is a DNS server that names these addresses, and the name that it does
// so for.
func nameServer(t *testing.T, answers *atomic.Value) (address, name string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	name = "primary.pg.service.consul."
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		for _, a := range answers.Load().([]string) {
			header := dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET}
			if q.Question[0].Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{Hdr: header, A: net.ParseIP(a)})
				continue
			}
			target := strings.ReplaceAll(a, ".", "-") + ".addr."
			m.Answer = append(m.Answer, &dns.SRV{Hdr: header, Port: 5432, Target: target})
			m.Extra = append(m.Extra, &dns.A{Hdr: dns.RR_Header{Name: target, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(a)})
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return conn.LocalAddr().String(), name
}

// TestPlantedSecondAddress lets a DNS server name two primaries for a moment.
func TestPlantedSecondAddress(t *testing.T) {
	var answers atomic.Value
	answers.Store([]string{"10.0.0.1"})
	server, name := nameServer(t, &answers)
	p := &drill.DNSPoller{Dial: new(net.Dialer).DialContext, Server: server, Name: name}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	seen := func(what string, check func() bool) {
		t.Helper()
		for range 300 {
			if check() {
				return
			}
			<-time.After(10 * time.Millisecond)
		}
		t.Fatalf("%s: %+v", what, p.Answers())
	}
	seen("first address", func() bool { return len(p.Answers()) >= 2 })
	if d := p.Doubles(); len(d) != 0 {
		t.Errorf("nothing was planted: %+v", d)
	}
	answers.Store([]string{"10.0.0.1", "10.0.0.2"})
	seen("second address", func() bool { return len(p.Doubles()) == 2 })
	changed := time.Now()
	answers.Store([]string{"10.0.0.2"})
	seen("new address", func() bool { return !p.FirstSeen("10.0.0.2:5432", changed).IsZero() })
	if late := p.FirstSeen("10.0.0.2:5432", changed).Sub(changed); late > 200*time.Millisecond {
		t.Errorf("the new address was seen after %v", late)
	}
	if !p.FirstSeen("10.0.0.3:5432", changed).IsZero() {
		t.Error("an address that was never answered was seen")
	}
	d := p.Doubles()
	if !slices.Equal(d[0].Addresses, []string{"10.0.0.1", "10.0.0.2"}) && !slices.Equal(d[1].Addresses, []string{"10.0.0.1", "10.0.0.2"}) {
		t.Errorf("the two addresses: %+v", d)
	}
}

// TestSeldomAsked: a DNS server that is asked seldom is asked both questions each
// time, and the report says how far that can be trusted.
func TestSeldomAsked(t *testing.T) {
	var answers atomic.Value
	answers.Store([]string{"10.0.0.1"})
	server, name := nameServer(t, &answers)
	p := &drill.DNSPoller{Dial: new(net.Dialer).DialContext, Server: server, Name: name, Interval: time.Hour}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	for range 300 {
		if asked, _ := p.Asked(); asked == 2 {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	if a := p.Answers(); len(a) != 2 || a[0].Type != "A" || a[1].Type != "SRV" {
		t.Errorf("the first answers: %+v", a)
	}
	for interval, want := range map[time.Duration]time.Duration{0: 4 * time.Millisecond, 5 * time.Millisecond: 10 * time.Millisecond, 50 * time.Millisecond: 50 * time.Millisecond} {
		if got := (&drill.DNSPoller{Interval: interval}).Every(); got != want {
			t.Errorf("with %v each is asked every %v, want %v", interval, got, want)
		}
	}
	for want, d := range map[string]drill.DNSReport{
		"41 ms after its first write":                             {LateMs: 41, EveryMs: 4},
		"41 ms after its first write (it was asked every 100 ms)": {LateMs: 41, EveryMs: 100},
		"before its first write was acknowledged":                 {LateMs: 0, EveryMs: 100},
	} {
		if got := d.LateWords(); got != want {
			t.Errorf("%+v: %q, want %q", d, got, want)
		}
	}
}

// TestPlantedStaleRead lets a reader be led to a server that has not the rows
// which another has acknowledged, as a primary is that was replaced.
func TestPlantedStaleRead(t *testing.T) {
	right, wrong := startPostgres(t), startPostgres(t)
	var newest drill.Frontier
	w := &drill.Writer{Route: right.route(), Run: 12, Workers: 2, Frontier: &newest}
	honest := &drill.Reader{Route: right.route(), Run: 12, Frontier: &newest, Interval: time.Millisecond}
	stale := &drill.Reader{Route: wrong.route(), Run: 12, Frontier: &newest, Interval: time.Millisecond}
	w.Start()
	defer w.Stop()
	honest.Start()
	stale.Start()
	start := time.Now()
	for range 1000 {
		writing(t, w, 10)
		if honest.Report(start).Reads > 100 && stale.Report(start).Stale > 100 {
			break
		}
	}
	honest.Stop()
	stale.Stop()
	if r := honest.Report(start); r.Reads < 100 || r.Stale != 0 {
		t.Errorf("the server that has all rows: %+v", r)
	}
	if r := stale.Report(start); r.Stale < 100 || r.BehindMs <= 0 {
		t.Errorf("the server that has none: %+v", r)
	}
}

// TestPlantedDamage lets an index disagree with its table, as a torn page or a
// changed collation makes it.
func TestPlantedDamage(t *testing.T) {
	s := startPostgres(t)
	s.exec("CREATE EXTENSION amcheck SCHEMA drill")
	w := &drill.Writer{Route: s.route(), Run: 13, Workers: 2}
	w.Start()
	writing(t, w, 50)
	w.Stop()
	inspect := func() drill.MemberReport {
		m, err := drill.Inspect(t.Context(), s.connect(), "n1", 13)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := inspect(); len(m.Damage) != 0 || m.Indexes < 100 || m.Rows < 50 || !m.Primary || m.Timeline != 1 {
		t.Errorf("nothing was planted: %+v", m)
	}
	s.exec("CREATE FUNCTION drill.number(bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1'")
	s.exec("CREATE INDEX planted ON drill.writes (drill.number(seq))")
	s.exec("CREATE OR REPLACE FUNCTION drill.number(bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT -$1'")
	if m := inspect(); len(m.Damage) != 1 || !strings.Contains(m.Damage[0], "planted") {
		t.Errorf("one index was damaged: %q", m.Damage)
	}
}
