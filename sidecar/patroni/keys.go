package patroni

import "strings"

// rule takes one key of the file, with all that is under it.
type rule func(*importer, entry)

// ruleFor returns the rule of a key. "*" stands for one key.
func ruleFor(path string) (rule, bool) {
	if r, ok := rules[path]; ok {
		return r, true
	}
	if dir, _, ok := cutLast(path); ok && !hasRulesUnder(path) {
		r, ok := rules[dir+".*"]
		return r, ok
	}
	return nil, false
}

func cutLast(path string) (dir, base string, ok bool) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

// hasRulesUnder reports whether there are rules for keys under this one.
func hasRulesUnder(path string) bool {
	for key := range rules {
		if strings.HasPrefix(key, path+".") {
			return true
		}
	}
	return false
}

// says notes the same for every value.
func says(text string) rule {
	return func(im *importer, e entry) { im.note(e, "%s", text) }
}

// silently is for what is the same here, or means nothing.
func silently(*importer, entry) {}

// What several keys have in common.
const (
	consulOnly   = "pgsidecar needs Consul, and knows no other store: start a Consul agent beside each member, and write its address into the block consul"
	noLoop       = "there is no loop: members tell each other of a change at once, and Consul by blocking queries"
	own          = "pgsidecar does this by itself"
	madeOnce     = "it counts only when a cluster is made; an existing one is taken over as it is"
	notYet       = "not supported"
	byHand       = "not imported: make these roles by SQL once the cluster is up"
	cloneByRules = "a new member is cloned by pg_basebackup from a replica with the tag clonefrom, else from the primary; for a copy from a repository write a block backup, and clone { methods = [\"backup\", \"basebackup\"] } (pgsidecar help backup)"
)

// rules has one for each key that is known.
var rules = map[string]rule{
	"scope":     (*importer).scope,
	"name":      (*importer).name,
	"namespace": says("not taken over: pgsidecar has keys of its own in Consul (consul { prefix }), so that both can run side by side"),

	"consul.host":                   (*importer).consulHost,
	"consul.port":                   silently, // consulHost
	"consul.scheme":                 silently,
	"consul.url":                    (*importer).consulHost,
	"consul.token":                  (*importer).consulToken,
	"consul.dc":                     func(im *importer, e entry) { im.doc.block("consul").text("datacenter", e.text()) },
	"consul.cacert":                 func(im *importer, e entry) { im.doc.block("consul", "tls").text("ca_file", e.text()) },
	"consul.cert":                   func(im *importer, e entry) { im.doc.block("consul", "tls").text("cert_file", e.text()) },
	"consul.key":                    func(im *importer, e entry) { im.doc.block("consul", "tls").text("key_file", e.text()) },
	"consul.verify":                 (*importer).consulVerify,
	"consul.register_service":       (*importer).registerService,
	"consul.service_tags":           (*importer).serviceTags,
	"consul.checks":                 says(own + ": the session lives as long as the agent's serfHealth, unless the agent alone is gone"),
	"consul.consistency":            says(own + ": what decides is read consistently"),
	"consul.service_check_interval": says(own + ": the registration changes with the role, at once"),
	"consul.service_check_tls_server_name": says(
		own + ": the checks are told by the member, and ask nobody"),
	"etcd": says(consulOnly), "etcd3": says(consulOnly), "zookeeper": says(consulOnly), "exhibitor": says(consulOnly),
	"kubernetes": says(consulOnly), "raft": says(consulOnly),
	"citus": says(notYet + ": run one cluster for each group"),

	"restapi.listen":                    (*importer).apiListen,
	"restapi.connect_address":           func(im *importer, e entry) { im.doc.block("api").text("advertise", e.text()) },
	"restapi.certfile":                  func(im *importer, e entry) { im.doc.block("api", "tls").text("cert_file", e.text()) },
	"restapi.keyfile":                   func(im *importer, e entry) { im.doc.block("api", "tls").text("key_file", e.text()) },
	"restapi.cafile":                    (*importer).apiCA,
	"restapi.verify_client":             (*importer).verifyClient,
	"restapi.authentication":            (*importer).apiAuthentication,
	"restapi.keyfile_password":          says("not supported: the key must be without a passphrase"),
	"restapi.allowlist":                 (*importer).allowList,
	"restapi.allowlist_include_members": says(own + ": members are always allowed"),
	"restapi.http_extra_headers":        says("not supported, and no client is known to need it"),
	"restapi.https_extra_headers":       says("not supported, and no client is known to need it"),
	"restapi.ciphers":                   says("not supported: TLS 1.2 and later, with Go's list of ciphers"),
	"restapi.request_queue_size":        says("not needed"),
	"restapi.server_tokens":             says("not needed: no version is shown to others"),
	"ctl":                               says("give the commands --ca-file, --cert-file and --key-file, or --config; see pgsidecar help tls"),

	"bootstrap.dcs.ttl":                      (*importer).ttl,
	"bootstrap.dcs.loop_wait":                says(noLoop),
	"bootstrap.dcs.retry_timeout":            says(noLoop + "; without Consul a primary serves on as long as enough members hear it"),
	"bootstrap.dcs.maximum_lag_on_failover":  (*importer).maximumLag,
	"bootstrap.dcs.maximum_lag_on_syncnode":  says("not needed: of the voters any standbys that are enough count, so a slow one is not waited for"),
	"bootstrap.dcs.max_timelines_history":    says("not needed: the newest 100 terms are shown"),
	"bootstrap.dcs.primary_start_timeout":    says("not needed: a replica leads as soon as the primary is down, if it loses nothing by it"),
	"bootstrap.dcs.primary_stop_timeout":     (*importer).stopTimeout,
	"bootstrap.dcs.master_start_timeout":     says("not needed: a replica leads as soon as the primary is down, if it loses nothing by it"),
	"bootstrap.dcs.master_stop_timeout":      (*importer).stopTimeout,
	"bootstrap.dcs.synchronous_mode":         func(im *importer, e entry) { im.durability.mode = strings.ToLower(e.text()) },
	"bootstrap.dcs.synchronous_mode_strict":  func(im *importer, e entry) { im.durability.strict = e.truth() },
	"bootstrap.dcs.synchronous_node_count":   func(im *importer, e entry) { im.durability.count = e.text() },
	"bootstrap.dcs.failsafe_mode":            says(own + ", always"),
	"bootstrap.dcs.check_timeline":           says(own + ", always"),
	"bootstrap.dcs.member_slots_ttl":         says(own + ": a slot lasts as long as its member is in the cluster (pgsidecar remove), bounded by max_slot_wal_keep_size"),
	"bootstrap.dcs.standby_cluster":          (*importer).standbyCluster,
	"bootstrap.dcs.slots":                    (*importer).slots,
	"bootstrap.dcs.ignore_slots":             says("not needed: slots that pgsidecar did not make are left alone"),
	"bootstrap.dcs.pause":                    silently,
	"bootstrap.dcs.tags":                     silently,
	"bootstrap.dcs.postgresql.parameters":    func(im *importer, e entry) { im.parameters.add(e, true) },
	"bootstrap.dcs.postgresql.pg_hba":        func(im *importer, e entry) { im.hba = append(im.hba, hbaLines{e, 1}) },
	"bootstrap.dcs.postgresql.pg_ident":      (*importer).ident,
	"bootstrap.dcs.postgresql.use_pg_rewind": (*importer).useRewind, "bootstrap.dcs.postgresql.use_slots": (*importer).useSlots,
	"bootstrap.dcs.postgresql.recovery_conf":                               (*importer).recoveryConf,
	"bootstrap.dcs.postgresql.remove_data_directory_on_rewind_failure":     says(own + ": what diverged is kept aside first"),
	"bootstrap.dcs.postgresql.remove_data_directory_on_diverged_timelines": says(own + ": what diverged is kept aside first"),

	"bootstrap.method":                                       says("not imported: a new cluster is made by initdb, or from a backup by bootstrap { from_backup } (pgsidecar help backup)"),
	"bootstrap.initdb":                                       (*importer).initdb,
	"bootstrap.users":                                        says(byHand),
	"bootstrap.post_bootstrap":                               (*importer).postInit,
	"bootstrap.post_init":                                    (*importer).postInit,
	"bootstrap.pg_hba":                                       func(im *importer, e entry) { im.hba = append(im.hba, hbaLines{e, 0}) },
	"bootstrap.*":                                            says(madeOnce),
	"postgresql.listen":                                      (*importer).listen,
	"postgresql.connect_address":                             func(im *importer, e entry) { im.doc.block("postgres").text("advertise", e.text()) },
	"postgresql.proxy_address":                               says("not supported: write it into the service's meta (service { meta }), where your clients look for it"),
	"postgresql.data_dir":                                    func(im *importer, e entry) { im.doc.block("postgres").text("data_dir", e.text()) },
	"postgresql.bin_dir":                                     func(im *importer, e entry) { im.doc.block("postgres").text("bin_dir", e.text()) },
	"postgresql.bin_name":                                    says("not supported: programs have PostgreSQL's names"),
	"postgresql.config_dir":                                  (*importer).configDir,
	"postgresql.custom_conf":                                 says("not needed: postgresql.conf in the data directory stays as it is, and the parameters here go over it"),
	"postgresql.pgpass":                                      says(own + ": the file is in state_dir, and only PostgreSQL's user reads it"),
	"postgresql.name":                                        silently,
	"postgresql.cluster_name":                                says("the member's name, by which the primary knows it"),
	"postgresql.scope":                                       silently,
	"postgresql.use_unix_socket":                             says(own),
	"postgresql.use_unix_socket_repl":                        says(own),
	"postgresql.use_pg_rewind":                               (*importer).useRewind,
	"postgresql.use_slots":                                   (*importer).useSlots,
	"postgresql.pg_ctl_timeout":                              says("not needed: a start may take as long as it does, while it goes on"),
	"postgresql.parameters":                                  func(im *importer, e entry) { im.parameters.add(e, false) },
	"postgresql.pg_hba":                                      func(im *importer, e entry) { im.hba = append(im.hba, hbaLines{e, 2}) },
	"postgresql.pg_ident":                                    (*importer).ident,
	"postgresql.authentication.superuser":                    (*importer).superuser,
	"postgresql.authentication.replication":                  (*importer).replication,
	"postgresql.authentication.rewind":                       says("not needed: pg_rewind uses the role that replicates"),
	"postgresql.callbacks":                                   (*importer).callbacks,
	"postgresql.before_stop":                                 (*importer).beforeStop,
	"postgresql.pre_promote":                                 (*importer).prePromote,
	"postgresql.recovery_conf":                               (*importer).recoveryConf,
	"postgresql.create_replica_methods":                      (*importer).replicaMethods,
	"postgresql.create_replica_method":                       (*importer).replicaMethods,
	"postgresql.basebackup":                                  (*importer).baseBackup,
	"postgresql.pgbackrest":                                  says("not imported: " + cloneByRules),
	"postgresql.wal_e":                                       says("not imported: " + cloneByRules),
	"postgresql.barman":                                      says("not imported: " + cloneByRules),
	"postgresql.remove_data_directory_on_rewind_failure":     says(own + ": what diverged is kept aside first"),
	"postgresql.remove_data_directory_on_diverged_timelines": says(own + ": what diverged is kept aside first"),

	"tags.nofailover":        (*importer).tag,
	"tags.clonefrom":         (*importer).tag,
	"tags.noloadbalance":     (*importer).tag,
	"tags.nosync":            (*importer).tag,
	"tags.replicatefrom":     (*importer).tag,
	"tags.failover_priority": (*importer).priority,
	"tags.sync_priority":     (*importer).syncPriority,
	"tags.nostream":          says(notYet + ": a member streams"),
	"tags.*":                 (*importer).ownTag,

	"watchdog":   says("not needed: a process of its own beside the server stops it when its lease runs out (pgsidecar help concepts)"),
	"log.level":  (*importer).logLevel,
	"log.type":   func(im *importer, e entry) { im.logFormat(e) },
	"log.format": says("not supported: format is text or json"),
	"log.*":      says("not supported: the log goes to standard error, where systemd and Nomad keep it"),
}
