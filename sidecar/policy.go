package sidecar

import (
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// EffectivePolicy puts the cluster-wide settings over the member's own policy, as they
// hold at the time.
func (o *Options) EffectivePolicy(set settings.Settings, now time.Time) ha.Policy {
	p := set.Apply(o.Policy, o.Member, now)
	if o.Priority != nil {
		p.Priority = o.Priority(p.Priority)
	}
	return p
}
