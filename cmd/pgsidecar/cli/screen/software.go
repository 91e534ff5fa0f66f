package screen

import (
	"fmt"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// writeSoftware writes which versions differ between the members that should be the
// same. A member whose server does not run is left out: its versions are not known.
func writeSoftware(b *strings.Builder, st *api.Status) {
	var orders []string
	for _, library := range []struct {
		name string
		of   func(*api.MemberStatus) string
	}{
		{"libc", func(m *api.MemberStatus) string { return m.Software.Libc }},
		{"ICU", func(m *api.MemberStatus) string { return m.Software.ICU }},
	} {
		if all := differing(st, library.of); all != "" {
			orders = append(orders, library.name+" "+all)
		}
	}
	if len(orders) > 0 {
		fmt.Fprintf(b, "\nWARNING: the members' collations differ (%s). After a failover to another version, indexes on text may miss rows, or take duplicates. "+
			"Bring all machines to one release of the operating system; after the primary has moved: REINDEX, and ALTER DATABASE name REFRESH COLLATION VERSION\n",
			strings.Join(orders, "; "))
	}
	if all := differing(st, func(m *api.MemberStatus) string { return postgresVersion(m.Software.Postgres) }); all != "" {
		fmt.Fprintf(b, "\nWARNING: the members run different versions of PostgreSQL (%s). Install the newest on each machine, then type: pgsidecar restart --all --upgrade\n", all)
	}
}

// differing are the members with their values, if they have more than one; else empty.
func differing(st *api.Status, of func(*api.MemberStatus) string) string {
	var all []string
	first, differ := "", false
	for i := range st.Members {
		m := &st.Members[i]
		value := of(m)
		if value == "" {
			continue
		}
		if first == "" {
			first = value
		}
		differ = differ || value != first
		all = append(all, m.Member+" "+value)
	}
	if !differ {
		return ""
	}
	return strings.Join(all, ", ")
}

// postgresVersion writes a server_version_num as people do; empty: not known.
func postgresVersion(number int) string {
	if number == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d", number/10000, number%10000)
}
