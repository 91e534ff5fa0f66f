package member

import (
	"strconv"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestSoftwareInStatus: a member tells the versions of what its server is made of, as
// the server itself says them.
func TestSoftwareInStatus(t *testing.T) {
	a := newAlone(t)
	stop := a.run()
	defer stop()
	version := a.sql("show server_version_num")
	icu := a.sql("select coalesce((select pg_collation_actual_version(oid) from pg_collation where collname = 'und-x-icu'), '')")
	var last ha.Software
	a.until("the versions in status", func() bool {
		st, err := a.client.StatusOf(t.Context(), a.api)
		if err != nil || len(st.Members) != 1 {
			return false
		}
		last = st.Members[0].Software
		return last.Postgres != 0 && (last.ICU != "" || icu == "")
	})
	if postgres := strings.TrimSpace(version); last.ICU != strings.TrimSpace(icu) || postgres != strconv.Itoa(last.Postgres) {
		t.Errorf("%+v, want PostgreSQL %s and ICU %q", last, postgres, icu)
	}
}
