package sessions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// ErrNotRead is returned by a Reader for what it has not read yet; it has begun
// to.
var ErrNotRead = errors.New("not read from Consul yet")

// Reader reads whatever keys and services others ask for: templates. Each is
// kept by a blocking query of its own from the first time it is wanted, so
// that asking again costs no request. What was read stays while Consul is away.
//
// Each query is a connection to the agent, which by default takes 200 from one
// address (http_max_conns_per_client).
type Reader struct {
	client  *Client
	changed func()

	mu    sync.Mutex
	known map[string]*subject
	wake  chan struct{} // there is a new subject; has room for one
}

// subject is one thing that is followed.
type subject struct {
	need  string
	query func(consul *api.Client, q *api.QueryOptions) (any, uint64, error)

	begun bool
	read  bool
	value any
	err   error // of the last request, if it failed
}

// KeyPair is a key and its value.
type KeyPair struct{ Key, Value string }

// ServiceInstance is one instance of any service, as the catalog has it.
type ServiceInstance struct {
	ID, Name, Node, NodeAddress string
	Address                     string // the service's, else the node's
	Port                        int
	Tags                        []string
	Status                      string // the worst of its checks
	Meta                        map[string]string
}

// NewReader makes a Reader. It starts nothing. It calls changed, which must
// return at once, whenever there is something new.
func (c *Client) NewReader(changed func()) *Reader {
	return &Reader{client: c, changed: changed, known: map[string]*subject{}, wake: make(chan struct{}, 1)}
}

// Key returns the value of a key, and whether it exists.
func (r *Reader) Key(path string) (string, bool, error) {
	v, err := r.get("key "+path, fmt.Sprintf("key %q { policy = \"read\" }", path), func(consul *api.Client, q *api.QueryOptions) (any, uint64, error) {
		pair, meta, err := consul.KV().Get(path, q)
		if err != nil {
			return nil, 0, err
		}
		if pair == nil {
			return (*KeyPair)(nil), meta.LastIndex, nil
		}
		return &KeyPair{Key: path, Value: string(pair.Value)}, meta.LastIndex, nil
	})
	if err != nil {
		return "", false, err
	}
	if pair := v.(*KeyPair); pair != nil {
		return pair.Value, true, nil
	}
	return "", false, nil
}

// Keys returns the keys below a prefix, sorted.
func (r *Reader) Keys(prefix string) ([]KeyPair, error) {
	v, err := r.get("keys "+prefix, fmt.Sprintf("key_prefix %q { policy = \"read\" }", prefix), func(consul *api.Client, q *api.QueryOptions) (any, uint64, error) {
		found, meta, err := consul.KV().List(prefix, q)
		if err != nil {
			return nil, 0, err
		}
		pairs := make([]KeyPair, 0, len(found))
		for _, p := range found {
			if !strings.HasSuffix(p.Key, "/") { // a folder, as Consul's UI makes them
				pairs = append(pairs, KeyPair{Key: p.Key, Value: string(p.Value)})
			}
		}
		return pairs, meta.LastIndex, nil
	})
	if err != nil {
		return nil, err
	}
	return slices.Clone(v.([]KeyPair)), nil
}

// Instances returns all instances of a service, whatever their checks say,
// sorted by node and id.
func (r *Reader) Instances(service string) ([]ServiceInstance, error) {
	need := fmt.Sprintf("service %q { policy = \"read\" } and node_prefix \"\" { policy = \"read\" }", service)
	v, err := r.get("service "+service, need, func(consul *api.Client, q *api.QueryOptions) (any, uint64, error) {
		entries, meta, err := consul.Health().Service(service, "", false, q)
		if err != nil {
			return nil, 0, err
		}
		if meta.ResultsFilteredByACLs {
			return nil, 0, denied(need, errFiltered.Error())
		}
		return instances(entries), meta.LastIndex, nil
	})
	if err != nil {
		return nil, err
	}
	return slices.Clone(v.([]ServiceInstance)), nil
}

func instances(entries []*api.ServiceEntry) []ServiceInstance {
	list := make([]ServiceInstance, 0, len(entries))
	for _, e := range entries {
		s := e.Service
		i := ServiceInstance{
			ID: s.ID, Name: s.Service, Node: e.Node.Node, NodeAddress: e.Node.Address, Address: s.Address, Port: s.Port,
			Tags: s.Tags, Status: e.Checks.AggregatedStatus(), Meta: s.Meta,
		}
		if i.Address == "" {
			i.Address = i.NodeAddress
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b ServiceInstance) int { return strings.Compare(a.Node+"\x00"+a.ID, b.Node+"\x00"+b.ID) })
	return list
}

// Services returns the names of all services with their tags.
func (r *Reader) Services() (map[string][]string, error) {
	v, err := r.get("services", `service_prefix "" { policy = "read" }`, func(consul *api.Client, q *api.QueryOptions) (any, uint64, error) {
		services, meta, err := consul.Catalog().Services(q)
		if err != nil {
			return nil, 0, err
		}
		for _, tags := range services {
			slices.Sort(tags)
		}
		return services, meta.LastIndex, nil
	})
	if err != nil {
		return nil, err
	}
	return maps.Clone(v.(map[string][]string)), nil
}

// get returns what is known of a subject, and has it followed.
func (r *Reader) get(name, need string, query func(*api.Client, *api.QueryOptions) (any, uint64, error)) (any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.known[name]
	if s == nil {
		s = &subject{need: need, query: query}
		r.known[name] = s
		kick(r.wake)
	}
	switch {
	case s.read:
		return s.value, nil // as it was last seen, also while Consul is away
	case s.err != nil:
		return nil, s.err
	}
	return nil, ErrNotRead
}

// Run follows what is wanted until ctx is done. It returns when all that it
// began has ended.
func (r *Reader) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		r.mu.Lock()
		for _, s := range r.known {
			if !s.begun {
				s.begun = true
				all.Go(func() { r.follow(ctx, s) })
			}
		}
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		}
	}
}

const (
	// readerWait is how long one query waits for a change: Consul's maximum is
	// 10 minutes. A broken connection is found by keepalive before.
	readerWait = 5 * time.Minute
	// readerPause is between a change and the next query: what changes all the
	// time (a missing key answers at every change of any key) must not keep a core
	// busy.
	readerPause = 20 * time.Millisecond
)

// follow keeps one subject.
func (r *Reader) follow(ctx context.Context, s *subject) {
	var index uint64
	failures := 0
	for ctx.Err() == nil {
		_, a, moved := r.client.route.pick() // which one is asked is the client's matter
		value, got, err := r.ask(ctx, moved, a, s, index)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && moved.Err() != nil:
			continue // ask the address that the others went to
		case err != nil:
			failures++
			index = 0
			r.note(s, nil, err)
			pause(ctx, backoff(failures), nil)
			continue
		}
		failures = 0
		if got < index {
			got = 0 // Consul's index went backwards (a restored snapshot): read anew
		}
		index = got
		r.note(s, value, nil)
		pause(ctx, readerPause, nil)
	}
}

// ask does one query.
func (r *Reader) ask(ctx, moved context.Context, a *address, s *subject, index uint64) (value any, got uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(moved, cancel)()
	wait := readerWait - rand.N(readerWait/4) // so that many do not end together
	err = r.client.ask(ctx, a, request{
		need:    s.need,
		timeout: wait + wait/16 + callTimeout,
		run: func(ctx context.Context, consul *api.Client) (err error) {
			q := &api.QueryOptions{WaitIndex: index, WaitTime: wait}
			value, got, err = s.query(consul, q.WithContext(ctx))
			return indexed(got, err)
		},
	})
	return value, got, err
}

// note takes over what a query said, and tells of it if it is new.
func (r *Reader) note(s *subject, value any, err error) {
	r.mu.Lock()
	first := !s.read && s.err == nil
	fresh := first
	switch {
	case err != nil:
		s.err = err
	default:
		fresh = !s.read || s.err != nil || !reflect.DeepEqual(s.value, value)
		s.read, s.value, s.err = true, value, nil
	}
	r.mu.Unlock()
	if fresh {
		r.changed()
	}
}

// Pending returns how many of the things asked for have not been read yet.
func (r *Reader) Pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, s := range r.known {
		if !s.read && s.err == nil {
			n++
		}
	}
	return n
}
