package screen

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// effectWords say what the primary's server does at each commit, where it was asked.
func effectWords(st *api.Status) string {
	e := st.InEffect
	if e == nil || e.Relaxed == "" && e.K == 0 && st.Durability.Mode == ha.ModeAsync {
		return ""
	}
	words := "waits for no standby"
	if e.K > 0 {
		words = fmt.Sprintf("waits for %d of %s", e.K, strings.Join(e.Names, ", "))
	}
	if e.SyncCommit != "" {
		words += ", synchronous_commit = " + e.SyncCommit
	}
	if e.Unsure {
		words += ", when last seen; a change is under way"
	}
	return words
}

// writeOddities writes what is wrong although the members work.
func writeOddities(b *strings.Builder, st *api.Status) {
	if e := st.InEffect; e != nil && e.Relaxed != "" {
		fmt.Fprintf(b, "\nWARNING: commits are acknowledged too early on %s: %s. Reset that setting, or the next failover may lose them\n", st.Member, e.Relaxed)
	}
	if e := st.InEffect; e != nil && st.Durability.Mode == ha.ModeQuorum {
		if len(e.Weak) > 0 {
			fmt.Fprintf(b, "\nWARNING: these roles or databases commit without waiting for a standby: %s\n", strings.Join(e.Weak, "; "))
		}
		if e.CancelledWaits > 0 {
			fmt.Fprintf(b, "\nWARNING: %d commits on %s were acknowledged although their wait for a standby was cancelled; a failover may lose them\n", e.CancelledWaits, st.Member)
		}
	}
	if e := st.InEffect; e != nil && len(e.ReadOnly) > 0 {
		fmt.Fprintf(b, "\nWARNING: %s takes writes, but transactions are read-only by default: %s. If that is not intended, reset it where it is set (ALTER DATABASE ... RESET, or ALTER SYSTEM RESET or the file and then pgsidecar reload); "+
			"connect with PGOPTIONS='-c default_transaction_read_only=off' for that\n", st.Member, strings.Join(e.ReadOnly, "; "))
	}
	if e := st.InEffect; e != nil && len(e.Reordered) > 0 {
		fmt.Fprintf(b, "\nWARNING: indexes on text were made with another version of libc or ICU than %s has, and may miss rows, or take duplicates: %s. "+
			"REINDEX, and then ALTER DATABASE name REFRESH COLLATION VERSION, or ALTER COLLATION name REFRESH VERSION\n", st.Member, strings.Join(e.Reordered, "; "))
	}
	for _, m := range st.Members {
		if problem := configProblem(st, &m); problem != "" && !Unheard(st, m.Member) {
			fmt.Fprintf(b, "\nWARNING: PostgreSQL on %s refuses its configuration: %s. Correct that, then type: pgsidecar reload %s\n", m.Member, problem, m.Member)
		}
	}
	for _, m := range st.Members {
		if m.Misled != "" && !Unheard(st, m.Member) {
			fmt.Fprintf(b, "\nWARNING: clients and the other members do not get to the server of %s: %s. Set postgres.advertise in its pg.hcl to an address of its server, and restart the sidecar\n", m.Member, m.Misled)
		}
	}
	for _, m := range st.Members {
		if m.PortSilent && !Unheard(st, m.Member) {
			fmt.Fprintf(b, "\nWARNING: the port of the server of %s does not answer on %s, while its sidecar does: is a firewall in front of it? As primary it would be out of clients' reach\n", m.Member, st.Member)
		}
	}
	for _, m := range st.Members {
		if m.Apart != "" && !Unheard(st, m.Member) {
			fmt.Fprintf(b, "\nNOTE: %s: %s\n", m.Member, m.Apart)
		}
	}
	for _, m := range st.Members {
		if m.Hidden != "" && !Unheard(st, m.Member) {
			fmt.Fprintf(b, "\nWARNING: Consul's DNS does not show %s: %s\n", m.Member, m.Hidden)
		}
	}
	if at := st.Consul.SettingsCopied; !at.IsZero() {
		fmt.Fprintf(b, "\nWARNING: %s uses its own copy of the cluster's settings, as they were at %s: Consul has not answered with them since it was started\n",
			st.Member, at.UTC().Format(time.RFC3339))
	}
	for _, m := range st.Members {
		if m.Strayed != "" {
			fmt.Fprintf(b, "\nWARNING: %s has log that is none of this cluster's, and neither votes nor leads: %s. Its data is made anew when the cluster no longer counts on it; "+
				"by hand: pgsidecar reinit %s\n", m.Member, m.Strayed, m.Member)
		}
	}
	for _, m := range st.Members {
		if m.Paused != "" {
			fmt.Fprintf(b, "\nWARNING: %s receives log and does not replay it: %s. It leads only if no other member can. "+
				"If a limit is the reason it restarts by itself; else: SELECT pg_wal_replay_resume()\n", m.Member, m.Paused)
		}
	}
	var leases, values []string
	for _, m := range st.Members {
		if m.Lease <= 0 {
			continue
		}
		value := Seconds(m.Lease)
		leases = append(leases, m.Member+" "+value)
		if !slices.Contains(values, value) {
			values = append(values, value)
		}
	}
	if len(values) > 1 {
		fmt.Fprintf(b, "\nWARNING: the members' leases differ (%s). Set failover.lease to one value in each pg.hcl, and restart the sidecars\n", strings.Join(leases, ", "))
	}
}
