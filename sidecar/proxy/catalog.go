package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/templates"
)

// catalog gives templates what they read of Consul beside the topology: it
// translates between the words of packages sessions and templates, which know
// nothing of each other.
type catalog struct{ *sessions.Reader }

var _ templates.Catalog = catalog{}

// notReady translates the error.
func notReady(err error) error {
	if errors.Is(err, sessions.ErrNotRead) {
		return fmt.Errorf("%w: %w", templates.ErrNotReady, err)
	}
	return err
}

// Key returns a key's value.
func (c catalog) Key(_ context.Context, path string) (string, error) {
	value, found, err := c.Reader.Key(path)
	if err == nil && !found {
		err = templates.ErrNotFound
	}
	return value, notReady(err)
}

// List returns the keys below a prefix.
func (c catalog) List(_ context.Context, prefix string) ([]templates.KeyPair, error) {
	prefix = strings.Trim(prefix, "/")
	if prefix != "" {
		prefix += "/"
	}
	found, err := c.Keys(prefix)
	pairs := make([]templates.KeyPair, 0, len(found))
	for _, p := range found {
		pairs = append(pairs, templates.KeyPair{Path: p.Key, Key: strings.TrimPrefix(p.Key, prefix), Value: p.Value})
	}
	return pairs, notReady(err)
}

// Instances returns a service's instances.
func (c catalog) Instances(_ context.Context, service string, any bool) ([]templates.Instance, error) {
	found, err := c.Reader.Instances(service)
	list := make([]templates.Instance, 0, len(found))
	for _, i := range found {
		if any || i.Status == "passing" {
			list = append(list, templates.Instance{
				ID: i.ID, Name: i.Name, Node: i.Node, NodeAddress: i.NodeAddress, Address: i.Address, Port: i.Port,
				Tags: i.Tags, Status: i.Status, ServiceMeta: i.Meta,
			})
		}
	}
	return list, notReady(err)
}

// Services returns all services, by name.
func (c catalog) Services(context.Context) ([]templates.ServiceName, error) {
	found, err := c.Reader.Services()
	list := make([]templates.ServiceName, 0, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		list = append(list, templates.ServiceName{Name: name, Tags: found[name]})
	}
	return list, notReady(err)
}
