package sessions

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Client is one member's connection to Consul. Its methods may be called from
// any goroutine.
type Client struct {
	opts    Options
	log     hclog.Logger
	keys    string // prefix of the cluster's keys, with its slash
	service string // id of this member's instance of the service
	token   *token
	route   *route

	confirmNow chan struct{} // asks keepConfirming for a consistent read
	renewNow   chan struct{} // asks keepSession to look after the session
	mendNow    chan struct{} // asks keepRegistered to compare with the agent
	turn       chan struct{} // held by the goroutine that speaks to the agent of the registration

	mu         sync.Mutex // guards all below
	view       View
	raw        []byte // the state key as it was read
	stateIndex uint64 // its ModifyIndex, also when it is broken
	readings   uint64 // how many were accepted, and heard
	faults     [areas]error
	notify     func()
	holding    bool
	vouched    bool // while holding: the members' word is enough for the lease
	released   bool
	follows    bool       // it is no member: Follow, not Run
	confirmAt  ha.Instant // keepConfirming last began then; zero: never, or what it did failed
	mendAt     ha.Instant // keepRegistered likewise
	homeNode   string     // the node of the first address, once known
	// homes are the nodes that answered there, and when each did last; alternatedAt is when
	// one did that had been left.
	homes        map[string]ha.Instant
	alternatedAt ha.Instant

	// guarded by turn
	wanted *Registration
	told   string                // the token that the agent was last given for the service
	toldAt map[string]ha.Instant // when it was last told of each check, by id
	// when the agent was last given the registration, and with which tags
	announcedAt   ha.Instant
	announcedTags []string
	takenAt       [2]ha.Instant // the last two times that somebody had taken a tag
	shown         bool          // the catalog has shown this member's entry
	lost          bool          // it did not when it was looked at last, and was told again
}

// View is what is known of Consul's data. Its slices and maps are shared and
// must not be changed.
type View struct {
	Consul ha.Consul

	Settings      []byte // the config key as it stands; nil: there is none
	SettingsIndex uint64 // its ModifyIndex, for PutSettings; zero: there is none
	SettingsRead  bool   // Consul has said once what the key is; else nil is not "none"

	Members []Member // this cluster's instances of the service, sorted by name

	// away are instances that the catalog has no more, as it last had them, sorted by name.
	away []Member

	// Err is the newest error of the first of these that does not work now:
	// record and lock, session, settings, service, the agent's address, registration,
	// token; or that another cluster uses the service's name, or DNS does not find what is
	// there. It is written for an operator.
	Err error
}

// Member is one instance of the service, as Consul's catalog has it.
type Member struct {
	Name      string // the member's
	Postgres  string // host:port of its server
	API       string // from the service's meta
	Node      string
	Address   string // host of its server
	ServiceID string
	Tags      []string
	Status    string // passing, warning or critical: the worst of its checks
	Meta      map[string]string

	index uint64 // ModifyIndex of the instance
}

// area is a part of the work that can fail while the others do not.
type area int

const (
	areaCluster area = iota
	areaSession
	areaSettings
	areaService
	areaAgent // before what comes of it
	areaRegistration
	areaToken
	areaOtherCluster
	areaDNS
	areas
)

// Run keeps the view, the session and the registration until ctx is done, and
// returns nil when its goroutines (listed in the package comment) have ended.
// It calls notify after each change of the view; notify must return at once.
// The session is left as it is: see ReleaseSession.
func (c *Client) Run(ctx context.Context, notify func()) error {
	c.mu.Lock()
	c.notify = notify
	c.mu.Unlock()
	kick(c.confirmNow)

	var all sync.WaitGroup
	all.Go(func() { c.keepSession(ctx) })
	all.Go(func() { c.keepConfirming(ctx) })
	all.Go(func() { c.keepRegistered(ctx) })
	all.Go(func() { c.returnHome(ctx) })
	all.Go(func() { c.watchDNS(ctx) })
	for _, w := range c.watches() {
		all.Go(func() { c.follow(ctx, w) })
	}
	all.Wait()

	c.mu.Lock()
	c.notify = nil
	c.mu.Unlock()
	return nil
}

// View returns what is known now.
func (c *Client) View() View {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.view
	for _, err := range c.faults {
		if err != nil {
			v.Err = err
			break
		}
	}
	return v
}

// SetHolding says whether this member is primary or about to be. While it is,
// Run reads the lock about once a second, which is what its lease lives on; vouched
// says that the members' word alone keeps that long enough, and then only what the
// agent is told of asks for the lock. It is said with every decision; what Run is to
// do soon it does then, so that the process wakes once for both.
func (c *Client) SetHolding(holding, vouched bool) {
	now := c.opts.Now()
	due := func(at ha.Instant, every time.Duration) bool { return at != 0 && !at.Within(every*9/10, now) }
	c.mu.Lock()
	asks := holding && !vouched
	confirm := c.holding != holding || asks && (c.vouched || due(c.confirmAt, leaseConfirm))
	mend := due(c.mendAt, mendInterval)
	c.holding, c.vouched = holding, vouched
	c.mu.Unlock()
	if confirm {
		kick(c.confirmNow)
	}
	if mend {
		kick(c.mendNow)
	}
}

// asksForLease reports whether the lease lives on the lock alone.
func (c *Client) asksForLease() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.holding && !c.vouched
}

// update changes the view and tells those that wait for it.
func (c *Client) update(change func()) {
	c.mu.Lock()
	change()
	notify := c.notify
	c.mu.Unlock()
	if notify != nil {
		notify()
	}
}

// reached notes whether the last call was answered. When all of Consul has been away,
// the local agent is counted as lost from its return on: until then no other agent was
// better off, and this one may need a moment more than they.
func (c *Client) reached(answered bool) {
	now := c.opts.Now()
	c.mu.Lock()
	same := c.view.Consul.Reachable == ha.Known(answered)
	c.mu.Unlock()
	if !same {
		c.update(func() {
			c.view.Consul.Reachable = ha.Known(answered)
			if answered && c.view.Consul.AgentLostAt != 0 {
				c.view.Consul.AgentLostAt = now
			}
		})
	}
}

// fault notes how a part of the work went; nil is well. An end by context says
// nothing about Consul.
func (c *Client) fault(a area, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	err = c.misplaced(err)
	c.mu.Lock()
	old := c.faults[a]
	same := old == nil && err == nil || old != nil && err != nil && old.Error() == err.Error()
	c.mu.Unlock()
	if !same {
		c.update(func() { c.faults[a] = err })
	}
}

// kick wakes the goroutine that reads the channel, now or when it is ready.
func kick(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// pause waits for d, for ctx or for wake, whichever is first.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
	}
}

const (
	firstBackoff = 50 * time.Millisecond
	// maxBackoff bounds how long the return of Consul goes unnoticed.
	maxBackoff = 2 * time.Second
)

// backoff returns how long to wait after so many failures in a row: doubling,
// and the half of it at random, so that members do not come back in step.
func backoff(failures int) time.Duration {
	d := maxBackoff
	if failures < 6 {
		d = min(d, firstBackoff<<max(failures-1, 0))
	}
	return d/2 + rand.N(d/2)
}
