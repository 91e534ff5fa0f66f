package patroni

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	judge "github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// parameters are PostgreSQL's, of the whole cluster and of the member.
type parameters struct{ cluster, own map[string]entry }

// byCluster are those that Patroni takes from its dynamic configuration alone.
var byCluster = []string{"max_connections", "max_locks_per_transaction", "max_worker_processes", "max_prepared_transactions",
	"wal_level", "track_commit_timestamp", "max_wal_senders", "max_replication_slots", "wal_log_hints", "hot_standby"}

func (p *parameters) add(e entry, cluster bool) {
	to := &p.own
	if cluster {
		to = &p.cluster
	}
	if *to == nil {
		*to = map[string]entry{}
	}
	for i := 0; i+1 < len(e.value.Content); i += 2 {
		name := strings.ToLower(e.value.Content[i].Value)
		(*to)[name] = entry{path: e.path + "." + name, line: e.value.Content[i].Line, value: e.value.Content[i+1]}
	}
}

// write writes those that count, as Patroni merges them, and notes the rest.
func (p *parameters) write(im *importer) {
	all := maps.Clone(p.cluster)
	if all == nil {
		all = map[string]entry{}
	}
	for name, e := range p.own {
		_, both := p.cluster[name]
		if slices.Contains(byCluster, name) {
			if both {
				im.note(e, "not imported: Patroni takes it from bootstrap.dcs alone")
				continue
			}
			im.note(e, "is written, though Patroni does not use it here; look whether you want it")
		}
		all[name] = e
	}
	p.tls(im, all)
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e := all[name]
		value := e.text()
		if e.value.Tag == "!!bool" {
			value = map[bool]string{true: "on", false: "off"}[e.truth()]
		}
		if err := judge.Check(name, value, im.durability.quorum()); err != nil {
			im.note(e, "left out: %v", err)
			continue
		}
		lines = append(lines, name+" = "+quote(value))
	}
	if len(lines) == 0 {
		return
	}
	width := 0
	for _, l := range lines {
		name, _, _ := strings.Cut(l, " ")
		width = max(width, len(name))
	}
	for i, l := range lines {
		name, value, _ := strings.Cut(l, " = ")
		lines[i] = "  " + name + strings.Repeat(" ", width-len(name)) + " = " + value
	}
	im.doc.block("postgres").set("parameters", "{\n"+strings.Join(lines, "\n")+"\n}")
}

// tls makes of the server's certificates the block that also serves the members'
// connections to each other.
func (p *parameters) tls(im *importer, all map[string]entry) {
	cert, key := all["ssl_cert_file"], all["ssl_key_file"]
	if cert.value == nil || key.value == nil || !filepath.IsAbs(cert.text()) || !filepath.IsAbs(key.text()) {
		if mode := im.from["sslmode"]; strings.HasPrefix(mode, "verify") || mode == "require" {
			im.note(entry{path: "postgresql.authentication.replication.sslmode", line: 1},
				"%s is not taken over: give postgres { tls } absolute paths of cert_file, key_file and ca_file, and require = true", mode)
		}
		return
	}
	tls := im.doc.block("postgres", "tls")
	tls.text("cert_file", cert.text())
	tls.text("key_file", key.text())
	ca, ok := all["ssl_ca_file"]
	switch {
	case ok:
		tls.text("ca_file", ca.text())
	case im.from["sslrootcert"] != "":
		tls.text("ca_file", im.from["sslrootcert"])
		ok = true
	}
	if ok && im.from["sslmode"] == "verify-full" {
		tls.set("require", "true")
	}
	for _, name := range []string{"ssl", "ssl_cert_file", "ssl_key_file", "ssl_ca_file"} {
		delete(all, name)
	}
}

// durability is what Patroni's synchronous modes come to.
type durability struct {
	mode   string
	strict bool
	count  string
	maxLag int64
	lagAt  *entry
}

func (d *durability) quorum() bool {
	return slices.Contains([]string{"true", "on", "yes", "quorum"}, d.mode)
}

func (d *durability) write(im *importer) {
	b := im.doc.block("durability")
	if !d.quorum() {
		b.setWith("mode", `"async"`, "as Patroni was set; quorum, the default here, loses no acknowledged commit")
		switch {
		case d.lagAt == nil:
		case d.maxLag == 0:
			im.doc.block("failover").text("max_lag", "1B")
		default:
			im.doc.block("failover").text("max_lag", sizeOf(d.maxLag))
		}
		return
	}
	b.text("mode", "quorum")
	if n, err := strconv.Atoi(d.count); err == nil && n > 0 {
		b.set("standbys", strconv.Itoa(n))
	}
	b.set("strict", truthOf(d.strict))
	if d.lagAt != nil {
		im.note(*d.lagAt, "not needed in quorum mode: nobody leads who lacks an acknowledged commit")
	}
}

// sizeOf writes a number of bytes in the largest unit that fits.
func sizeOf(n int64) string {
	for _, u := range []struct {
		bytes int64
		name  string
	}{{1 << 30, "GB"}, {1 << 20, "MB"}, {1 << 10, "kB"}} {
		if n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}
