package peers_test

import (
	"net"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/peers"
)

// TestPortSilent: where a server that is to be followed answers nobody, and its sidecar is
// heard, that is known; not any more when it answers, is received from, or is not followed.
func TestPortSilent(t *testing.T) {
	t.Parallel()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	port := newHost(t, server.Addr().String())
	a, b := newMember(t, "a", nil), newMember(t, "b", nil)
	a.SetAddresses([]peers.Address{{Member: b.name, API: b.address()}})
	b.SetAddresses([]peers.Address{{Member: a.name, API: a.address()}})
	b.say(ha.Report{Role: ha.RolePrimary, Postgres: port.address()})
	a.await(t, "b", "with a server", func(p ha.Peer) bool { return p.Report.Postgres != "" })

	follows := ha.Report{Role: ha.RoleReplica, Leader: "b"}
	silent := func(p ha.Peer) bool { return p.PortSilent && p.Link == ha.LinkUp }
	answers := func(p ha.Peer) bool { return !p.PortSilent && p.Link == ha.LinkUp }
	for _, step := range []struct {
		what string
		does func()
		then func(ha.Peer) bool
	}{
		{"a firewall before the port", func() { a.say(follows); port.vanish() }, silent},
		{"no firewall", port.appear, answers},
		{"a firewall again", port.vanish, silent},
		{"it is received from", func() {
			streams := follows
			streams.Streaming = true
			a.say(streams)
		}, answers},
		{"and is not any more", func() { a.say(follows) }, silent},
		{"another is followed", func() { a.say(ha.Report{Role: ha.RoleReplica, Leader: "c"}) }, answers},
	} {
		step.does()
		a.await(t, "b", step.what, step.then)
	}
}

// TestPortOfAReplica: the primary's member knows which replicas' ports answer nobody, as any of
// them may be the next primary; one that stops to lead tries them no more.
func TestPortOfAReplica(t *testing.T) {
	t.Parallel()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	port := newHost(t, server.Addr().String())
	a, b := newMember(t, "a", nil), newMember(t, "b", nil)
	a.SetAddresses([]peers.Address{{Member: b.name, API: b.address()}})
	b.SetAddresses([]peers.Address{{Member: a.name, API: a.address()}})
	b.say(ha.Report{Role: ha.RoleReplica, Leader: "a", Streaming: true, Postgres: port.address()})
	a.say(ha.Report{Role: ha.RolePrimary})
	port.vanish()
	a.await(t, "b", "behind a firewall", func(p ha.Peer) bool { return p.PortSilent && p.Link == ha.LinkUp })
	a.say(ha.Report{Role: ha.RoleReplica, Leader: "c", Streaming: true})
	a.await(t, "b", "not tried any more", func(p ha.Peer) bool { return !p.PortSilent && p.Link == ha.LinkUp })
}
