package patroni

import (
	"net"
	"strings"

	"go.yaml.in/yaml/v3"
)

// standbyCluster becomes the block standby_of: the other site's servers by their
// addresses, as Patroni has them.
func (im *importer) standbyCluster(e entry) {
	if e.value.Kind != yaml.MappingNode {
		return // null, or a mistake that Patroni does not see either
	}
	var hosts, ports []string
	for i := 0; i+1 < len(e.value.Content); i += 2 {
		key, value := e.value.Content[i], e.value.Content[i+1]
		at := entry{path: join(e.path, key.Value), line: key.Line, value: value}
		switch key.Value {
		case "host":
			hosts = listed(value.Value)
		case "port":
			ports = listed(value.Value)
		case "primary_slot_name":
			im.note(at, "not needed: each member makes a slot of its own (site_...) on the other site's primary")
		case "create_replica_methods":
			im.note(at, "not imported: %s", cloneByRules)
		case "restore_command", "archive_cleanup_command":
			im.note(at, "not imported: a block backup has the archive that members read from")
		default:
			im.note(at, "%s for a standby cluster", notYet)
		}
	}
	if len(hosts) == 0 {
		im.note(e, "it has no host: a cluster that follows an archive alone is not supported")
		return
	}
	var addresses []string
	for i, host := range hosts {
		port := "5432"
		if len(ports) > 0 {
			port = ports[min(i, len(ports)-1)]
		}
		addresses = append(addresses, quote(net.JoinHostPort(strings.Trim(host, "[]"), port)))
	}
	im.doc.block("standby_of").set("addresses", "["+strings.Join(addresses, ", ")+"]")
	im.note(e, "the other site's cluster must have the same superuser and replication user; the first member copies its primary into an empty data directory; see pgsidecar help sites")
}

// listed are the parts of a list in one string, as libpq has hosts and ports.
func listed(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}
