package templates

import (
	"context"
	"os"
	"time"
)

// Catalog is what templates may read of Consul beside the topology. Its answers
// should come from blocking queries kept running, so that reading is cheap. A
// value that was never read yet is ErrNotReady, not an empty one.
type Catalog interface {
	// Key returns a key's value. It returns ErrNotFound if there is none.
	Key(ctx context.Context, path string) (string, error)
	// List returns the keys below a prefix, each relative to it.
	List(ctx context.Context, prefix string) ([]KeyPair, error)
	// Instances returns the healthy instances of a service; with any, all.
	Instances(ctx context.Context, service string, any bool) ([]Instance, error)
	// Services returns all services' names with their tags.
	Services(ctx context.Context) ([]ServiceName, error)
}

// KeyPair is one key, with the fields that consul-template gives it.
type KeyPair struct {
	Path  string // whole
	Key   string // below the prefix asked for
	Value string
}

// Instance is one instance of a service, with the fields that consul-template
// gives it.
type Instance struct {
	ID          string
	Name        string
	Node        string
	NodeAddress string
	Address     string
	Port        int
	Tags        []string
	Status      string
	ServiceMeta map[string]string
}

// ServiceName is a service in the catalog.
type ServiceName struct {
	Name string
	Tags []string
}

// Env is what a rendering has beside its page. The zero Env has no Consul, the
// process's environment and its clock.
type Env struct {
	Catalog Catalog
	Getenv  func(string) string
	Now     func() time.Time
}

func (e Env) getenv(name string) string {
	if e.Getenv == nil {
		return os.Getenv(name)
	}
	return e.Getenv(name)
}

func (e Env) now() time.Time {
	if e.Now == nil {
		return time.Now()
	}
	return e.Now()
}
