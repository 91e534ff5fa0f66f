package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// registry is where a command finds members in Consul.
type registry struct {
	options sessions.Options
}

// errNoneInConsul is returned when Consul names no member that was not asked
// already.
var errNoneInConsul = errors.New("no other member in Consul's catalog")

// registryOf is what the configuration says of Consul.
func registryOf(cfg *config.Config) *registry {
	return &registry{options: sessionsOptions(cfg, hclog.NewNullLogger())}
}

// registry is what --consul and Consul's own environment variables say; nil: they
// say nothing.
func (f *clientFlags) registry() *registry {
	getenv := f.app.getenv
	list := orDefault(f.consul, getenv("PGSIDECAR_CONSUL"))
	if list == "" {
		return nil
	}
	o := sessions.Options{
		Cluster: f.cluster, Service: orDefault(f.service, f.cluster), Member: "command", Logger: hclog.NewNullLogger(),
		Token: getenv("CONSUL_HTTP_TOKEN"), TokenFile: getenv("CONSUL_HTTP_TOKEN_FILE"),
		CAFile: getenv("CONSUL_CACERT"), CertFile: getenv("CONSUL_CLIENT_CERT"), KeyFile: getenv("CONSUL_CLIENT_KEY"),
		ServerName: getenv("CONSUL_TLS_SERVER_NAME"),
	}
	for address := range strings.SplitSeq(list, ",") {
		o.Addresses = append(o.Addresses, strings.TrimSpace(address))
	}
	return &registry{options: o}
}

// members returns the API addresses of the cluster's members as Consul's catalog
// names them, the primary's first, without those known.
func (r *registry) members(ctx context.Context, known []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	consul, err := sessions.New(r.options)
	if err != nil {
		return nil, err
	}
	all, err := consul.Members(ctx)
	if err != nil {
		return nil, fmt.Errorf("find members in Consul: %w", err)
	}
	slices.SortStableFunc(all, func(a, b sessions.Member) int {
		switch x, y := slices.Contains(a.Tags, "primary"), slices.Contains(b.Tags, "primary"); {
		case x && !y:
			return -1
		case y && !x:
			return 1
		}
		return 0
	})
	var found []string
	for _, m := range all {
		if m.API != "" && !slices.Contains(known, m.API) {
			found = append(found, m.API)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: cluster %s, service %s", errNoneInConsul, r.options.Cluster, orDefault(r.options.Service, "pg"))
	}
	return found, nil
}

// completeMembers lets a shell complete the names of members: as arguments, or, if
// it is named, as the flag's value. Whoever presses the key waits, so nothing is
// said if no member answers.
func completeMembers(flags *clientFlags, cmd *cobra.Command, flag string) {
	names := func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := flags.client(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		st, err := c.status(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return memberNames(st, args), cobra.ShellCompDirectiveNoFileComp
	}
	if flag == "" {
		cmd.ValidArgsFunction = names
		return
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, names); err != nil {
		panic(err) // the flag is defined by the caller
	}
}

// memberNames are the members with what they are, for a shell, without those named
// already.
func memberNames(st *api.Status, but []string) []string {
	var names []string
	for _, m := range st.Members {
		if !slices.Contains(but, m.Member) {
			names = append(names, m.Member+"\t"+string(m.Role))
		}
	}
	return names
}
