package config

import (
	"os/user"
	"strconv"

	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
)

// AccountKind says as what a user or a group is named.
type AccountKind uint8

// What a configuration names of a machine's accounts.
const (
	RunsHook  AccountKind = iota // a user that this process must be able to become
	OwnsFile                     // a user, by name or number
	GroupFile                    // a group, by name or number
)

// account says why this machine has no such user or group.
func account(kind AccountKind, name string) error {
	if kind == RunsHook {
		return hooks.CheckUser(name)
	}
	if _, err := strconv.Atoi(name); err == nil {
		return nil // a number needs no name
	}
	if kind == GroupFile {
		_, err := user.LookupGroup(name)
		return err
	}
	_, err := user.Lookup(name)
	return err
}

// checkAccounts looks up the users and groups that the configuration names.
func (r *reader) checkAccounts(c *Config) {
	look := func(kind AccountKind, path, name string) {
		if name == "" || r.env.Account == nil {
			return
		}
		if err := r.env.Account(kind, name); err != nil {
			r.refuse(path, "%v", err)
		}
	}
	for i := range c.Templates {
		t := &c.Templates[i]
		look(OwnsFile, "template."+t.Name+".user", t.User)
		look(GroupFile, "template."+t.Name+".group", t.Group)
	}
	for i := range c.Hooks {
		look(RunsHook, "hook."+c.Hooks[i].Name+".user", c.Hooks[i].User)
	}
}
