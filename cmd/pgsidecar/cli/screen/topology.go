package screen

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// Branch is a member with those that follow it.
type Branch struct {
	api.MemberStatus
	Replicas []*Branch `json:"replicas,omitempty"`
}

// Tree puts each member below the one that it follows. Nobody is left out: a member
// whose upstream is unknown, or itself, is below the leader, and without a leader
// a root; so is one of a circle.
func Tree(st *api.Status, upstream map[string]string) []*Branch {
	all := map[string]*Branch{}
	for _, m := range st.Members {
		all[m.Member] = &Branch{MemberStatus: m}
	}
	var roots []*Branch
	for _, m := range st.Members {
		up := upstream[m.Member]
		if all[up] == nil || up == m.Member || circle(upstream, m.Member) {
			up = st.Leader
		}
		if above := all[up]; above != nil && m.Member != st.Leader {
			above.Replicas = append(above.Replicas, all[m.Member])
			continue
		}
		roots = append(roots, all[m.Member])
	}
	slices.SortStableFunc(roots, func(x, y *Branch) int { // the leader first
		return cmp.Compare(notLeader(st, x.Member), notLeader(st, y.Member))
	})
	return roots
}

func notLeader(st *api.Status, name string) int {
	if name == st.Leader {
		return 0
	}
	return 1
}

// circle reports whether the members above this one lead back to it.
func circle(upstream map[string]string, name string) bool {
	at := upstream[name]
	for range upstream {
		if at == "" || at == name {
			break
		}
		at = upstream[at]
	}
	return at == name
}

// Write writes a branch, with what stands before its own line and before those below.
func (b *Branch) Write(w io.Writer, st *api.Status, first, below string) {
	fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%s\n", first, b.Member, RoleWords(st, b.MemberStatus), MemberState(st, b.MemberStatus),
		LagWords(st, b.MemberStatus), cmp.Or(b.Postgres, "-"))
	for i, replica := range b.Replicas {
		if i == len(b.Replicas)-1 {
			replica.Write(w, st, below+"└─ ", below+"   ")
			continue
		}
		replica.Write(w, st, below+"├─ ", below+"│  ")
	}
}
