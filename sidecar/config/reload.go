package config

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// Reloadable is what a running sidecar takes over from a changed file (SIGHUP).
// Everything else needs a restart of the sidecar, which leaves PostgreSQL
// running. The lease is not here: others count on it from what they know.
// Durability is not either: after the first start the cluster's dynamic
// settings in Consul count.
type Reloadable struct {
	Service Service // but for its name

	// Parameters and HBA are reloaded into the server; a parameter that needs
	// the server's restart then shows as pending.
	Parameters  map[string]string
	HBA, Ident  []string
	StopTimeout time.Duration

	Automatic       bool
	FailureTimeout  time.Duration
	HandoverTimeout time.Duration
	AgentTimeout    time.Duration
	MaxLag          settings.Size
	RefusedIsDead   bool

	StandbyOf settings.Site
	Tags      Tags
	Templates []Template
	Hooks     []hooks.Hook
	Notices   []hooks.Notice
	HAProxy   HAProxy
	PgBouncer PgBouncer
	Log       Log
}

// Reloadable returns the part of c that may change while the sidecar runs.
func (c *Config) Reloadable() Reloadable {
	return Reloadable{
		Service:    Service{Tags: c.Service.Tags, Meta: c.Service.Meta, Reads: c.Service.Reads},
		Parameters: c.Postgres.Parameters, HBA: c.Postgres.HBA, Ident: c.Postgres.Ident, StopTimeout: c.Postgres.StopTimeout,
		Automatic: c.Failover.Automatic, FailureTimeout: c.Failover.FailureTimeout, HandoverTimeout: c.Failover.HandoverTimeout, AgentTimeout: c.Failover.AgentTimeout,
		MaxLag: c.Failover.MaxLag, RefusedIsDead: c.Failover.RefusedIsDead,
		StandbyOf: c.StandbyOf, Tags: c.Tags, Templates: c.Templates, Hooks: c.Hooks, Notices: c.Notices, HAProxy: c.HAProxy, PgBouncer: c.PgBouncer, Log: c.Log,
	}
}

// with returns c with its reloadable part replaced.
func (c Config) with(l Reloadable) Config {
	c.Service.Tags, c.Service.Meta, c.Service.Reads = l.Service.Tags, l.Service.Meta, l.Service.Reads
	c.Postgres.Parameters, c.Postgres.HBA, c.Postgres.Ident, c.Postgres.StopTimeout = l.Parameters, l.HBA, l.Ident, l.StopTimeout
	c.Failover.Automatic, c.Failover.FailureTimeout, c.Failover.HandoverTimeout = l.Automatic, l.FailureTimeout, l.HandoverTimeout
	c.Failover.AgentTimeout, c.Failover.MaxLag, c.Failover.RefusedIsDead = l.AgentTimeout, l.MaxLag, l.RefusedIsDead
	c.Tags, c.Templates, c.HAProxy, c.PgBouncer, c.Log = l.Tags, l.Templates, l.HAProxy, l.PgBouncer, l.Log
	c.Hooks, c.Notices, c.StandbyOf = l.Hooks, l.Notices, l.StandbyOf
	return c
}

// NeedsRestart returns the blocks, sorted, in which next differs from c beyond
// what is Reloadable; none means that a reload is enough. Secrets that came
// from files do not count: their files are read again.
func (c *Config) NeedsRestart(next *Config) []string {
	before, after := withoutFiles(*c), withoutFiles(next.with(c.Reloadable()))
	var blocks []string
	a, b := reflect.ValueOf(before), reflect.ValueOf(after)
	for i := range a.NumField() {
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			blocks = append(blocks, strings.ToLower(a.Type().Field(i).Name))
		}
	}
	slices.Sort(blocks)
	return blocks
}

// withoutFiles returns c without the secrets that its files held when it was
// read.
func withoutFiles(c Config) Config {
	for _, s := range []struct {
		file   string
		secret *Secret
	}{
		{c.Consul.TokenFile, &c.Consul.Token},
		{c.API.TokenFile, &c.API.Token},
		{c.Peers.KeyFile, &c.Peers.Key},
		{c.Postgres.Superuser.PasswordFile, &c.Postgres.Superuser.Password},
		{c.Postgres.Replication.PasswordFile, &c.Postgres.Replication.Password},
	} {
		if s.file != "" {
			*s.secret = Secret{}
		}
	}
	return c
}
