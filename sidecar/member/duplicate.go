package member

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgsidecar/pgsidecar/sessions"
)

// uniqueTimeout bounds the question whether the member's name is taken. Without an
// answer it is started: Consul, or the other, may be away.
const uniqueTimeout = time.Second

// refuseDuplicateName refuses to run under a service name that another cluster uses, and beside
// another process of the same name in the cluster: it would take its registration, and
// with it its place as a voter. A server that runs
// under our guard already has shown whose the name is.
func (m *Member) refuseDuplicateName(ctx context.Context) error {
	if m.guard.Status().Running {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, uniqueTimeout)
	defer cancel()
	if err := m.cluster.CheckService(bounded); errors.Is(err, sessions.ErrOtherCluster) {
		return fmt.Errorf("%s: %w", m.path, err)
	}
	all, err := m.cluster.Members(bounded)
	if err != nil {
		m.log.Debug("whether another member has this name is not known", "error", err)
		return nil
	}
	own := m.config
	for _, other := range all {
		if other.Name != own.Member || other.API == "" || other.API == own.API.Advertise {
			continue
		}
		st, err := m.statusOf(bounded, other.API)
		if err != nil || st.Member != own.Member || st.Cluster != own.Cluster {
			continue // it is gone, and this is its place
		}
		return fmt.Errorf("member %s of cluster %s runs already, with its API at %s; give this one another name: member in %s",
			own.Member, own.Cluster, other.API, m.path)
	}
	return nil
}
