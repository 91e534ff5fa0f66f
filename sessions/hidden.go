package sessions

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// The ids that Consul gives to its own checks of a node and of maintenance mode.
const (
	gossipCheck        = "serfHealth"
	nodeMaintenance    = "_node_maintenance"
	serviceMaintenance = "_service_maintenance:"
)

// hiddenBy says, for people, which check that is not this member's own takes its
// instance out of DNS; empty: none does, or its own check is critical, which hides it by
// right, or the catalog has no instance of it.
func (c *Client) hiddenBy(entries []*api.ServiceEntry) string {
	by := ""
	for _, e := range entries {
		if c.others(e.Service.Meta) || !c.isOwn(c.member(e)) {
			continue
		}
		for _, check := range e.Checks {
			switch own := strings.HasPrefix(check.CheckID, c.service+":"); {
			case check.Status != api.HealthCritical:
			case own:
				return ""
			case by == "":
				by = nameCheck(e.Node.Node, check)
			}
		}
	}
	return by
}

// nameCheck names a critical check as an operator knows it.
func nameCheck(node string, check *api.HealthCheck) string {
	// Maintenance gives its reason in the notes, as this program's checks do.
	said := cmp.Or(strings.TrimSpace(check.Output), strings.TrimSpace(check.Notes))
	if check.CheckID == nodeMaintenance || strings.HasPrefix(check.CheckID, serviceMaintenance) {
		said = strings.TrimSpace(check.Notes)
	}
	if said != "" {
		said = fmt.Sprintf(" (%s)", oneLine(said))
	}
	switch {
	case check.CheckID == nodeMaintenance:
		return "maintenance mode of node " + node + said + "; to end it, there: consul maint -disable"
	case strings.HasPrefix(check.CheckID, serviceMaintenance):
		return "maintenance mode of service " + check.ServiceID + said + "; to end it, on node " + node + ": consul maint -disable -service=" + check.ServiceID
	case check.CheckID == gossipCheck:
		return "Consul's gossip: the other agents do not reach the agent of node " + node + said
	case check.ServiceID != "":
		return fmt.Sprintf("the check %q of service %s on node %s%s", check.Name, check.ServiceID, node, said)
	}
	return fmt.Sprintf("the check %q of node %s%s", check.Name, node, said)
}

// longestOutput is how much of a check's output a message repeats, in bytes.
const longestOutput = 120

func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > longestOutput {
		text = strings.ToValidUTF8(text[:longestOutput], "") + "…"
	}
	return text
}

// noteHidden puts what hiddenBy says into the view. The caller holds c.mu.
func (c *Client) noteHidden(by string, now ha.Instant) {
	v := &c.view.Consul
	switch {
	case by == "":
		v.HiddenAt = 0
	case v.HiddenAt == 0:
		v.HiddenAt = now
	}
	v.HiddenBy = by
}
