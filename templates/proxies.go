package templates

import (
	"context"
	"time"
)

// Proxy is what sends connections to the primary and to replicas, and is told of a
// change of roles while it runs. Package haproxy has the one there is.
type Proxy interface {
	// Run keeps the proxy right until the context ends, and returns its error.
	Run(ctx context.Context) error
	// Offer gives the newest topology, and returns at once.
	Offer(t Topology)
	// Release says that nothing current is known: the proxy's own checks decide until
	// the next Offer.
	Release()
	Status() ProxyStatus
}

// Reloader is a proxy that reads a file again when it is told to (see File.Reload).
type Reloader interface {
	// Reload returns when the proxy has taken up its files. The context should have
	// a deadline.
	Reload(ctx context.Context) error
	// Running reports whether there is a proxy that could be told. One that starts
	// reads its files by itself.
	Running(ctx context.Context) bool
}

// Pooler keeps clients waiting, without an error, while the primary changes. Package
// pgbouncer has the one there is.
type Pooler interface {
	// Run works until the context ends; it leaves nobody waiting.
	Run(ctx context.Context)
	// Hold asks for clients to wait, and returns at once. The channel is closed when
	// the pooler has been told, or that was tried. With again, clients may be held
	// although they were let go on when an earlier wait took too long.
	Hold(again bool) <-chan struct{}
	// EndHold asks for clients to go on with the topology's primary, and returns at
	// once. With reload, the pooler's file has changed: it reads it first.
	EndHold(t Topology, reload bool)
	Status() PoolerStatus
}

// DefaultHold is how long clients are held in one planned switchover at most. It is
// more than one may take.
const DefaultHold = 15 * time.Second

// MaxLoginWait is how long a pooler may wait for its own logins before it holds
// clients. It is less than the 50 ms that a planned stop leaves proxies for that.
const MaxLoginWait = 40 * time.Millisecond

// ProxyStatus is how one HAProxy does.
type ProxyStatus struct {
	Socket    string `json:"socket"`
	Connected bool   `json:"connected"` // HAProxy routes by what we tell it
	// ConnectedAt is since when.
	ConnectedAt time.Time `json:"connected_at,omitzero"`
	Pid         int       `json:"pid,omitempty"`
	Term        uint64    `json:"term,omitempty"` // of the last topology applied
	Primary     string    `json:"primary,omitempty"`
	AppliedAt   time.Time `json:"applied_at,omitzero"`
	// Missing are the servers, with their addresses, that HAProxy should have and has not:
	// it runs with an older file.
	Missing   []string  `json:"missing,omitempty"`
	Mended    int       `json:"mended"`            // how often its state was not what it should be
	Expired   int       `json:"expired,omitempty"` // how often new clients were held too long, and let in
	Error     string    `json:"error,omitempty"`
	LastError string    `json:"last_error,omitempty"` // stays when all is well again
	ErrorAt   time.Time `json:"error_at,omitzero"`    // when LastError was

	// Of the master socket, where there is one.
	MasterSocket string `json:"master_socket,omitempty"`
	MasterError  string `json:"master_error,omitempty"`
	Reloads      int    `json:"reloads,omitempty"`            // by us
	OldWorkers   int    `json:"old_workers,omitempty"`        // older than a reload, that still have sessions
	OldSessions  int    `json:"old_sessions_ended,omitempty"` // that we ended in such
}

// PoolerStatus is how one PgBouncer does.
type PoolerStatus struct {
	Address   string    `json:"address"`
	Paused    bool      `json:"paused"`
	PausedAt  time.Time `json:"paused_at,omitzero"`
	Expired   int       `json:"expired,omitempty"` // how often the expiry resumed
	Error     string    `json:"error,omitempty"`
	LastError string    `json:"last_error,omitempty"` // stays when all is well again
	ErrorAt   time.Time `json:"error_at,omitzero"`    // when LastError was
}
