package patroni

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// notInLabel is what no cluster, member or tag may have in its name.
var notInLabel = regexp.MustCompile(`[^a-z0-9]+`)

// label makes a name that DNS takes of one that Patroni takes.
func label(name string) string {
	return strings.Trim(notInLabel.ReplaceAllString(strings.ToLower(name), "-"), "-")
}

func (im *importer) scope(e entry) {
	name := label(e.text())
	im.doc.top.text("cluster", name)
	if name != e.text() {
		im.note(e, "is %q now, as a name of DNS must be; so is the service in Consul", name)
	}
}

func (im *importer) name(e entry) {
	name := label(e.text())
	im.doc.top.text("member", name)
	if name != e.text() {
		im.note(e, "is %q now, as a name of DNS must be", name)
	}
}

// consulHost writes the address from host, port, scheme or url, whichever stands there.
func (im *importer) consulHost(e entry) {
	b := im.doc.block("consul")
	if strings.HasSuffix(e.path, ".url") {
		b.set("address", quoteAll([]string{strings.TrimSuffix(e.text(), "/")}))
		return
	}
	host, port, err := net.SplitHostPort(e.text())
	if err != nil {
		host, port = e.text(), "8500"
		if p := im.at("consul", "port"); p != nil {
			port = p.Value
		}
	}
	address := net.JoinHostPort(host, port)
	if s := im.at("consul", "scheme"); s != nil && s.Value == "https" {
		address = "https://" + address
	}
	b.set("address", quoteAll([]string{address}))
}

func (im *importer) consulToken(e entry) {
	im.doc.block("consul").text("token_file", im.secret("consul.token", e.text()))
	im.note(e, "needs a policy for pgsidecar's keys: pgsidecar files consul-policy.hcl")
}

func (im *importer) consulVerify(e entry) {
	if !e.truth() {
		im.note(e, "set CONSUL_HTTP_SSL_VERIFY=false in the environment, if it must be; better give consul { tls { ca_file } }")
	}
}

func (im *importer) registerService(e entry) {
	if e.truth() {
		return
	}
	im.note(e, "pgsidecar always registers the service, with the tags primary and replica; remove the file by which the agent registers it")
}

func (im *importer) serviceTags(e entry) {
	var tags []string
	for _, t := range e.texts() {
		switch tag := label(t); {
		case tag == "primary" || tag == "replica" || tag == "master":
			im.note(e, "tag %q is left out: pgsidecar gives primary and replica to the member that has the role", t)
		case tag != "":
			tags = append(tags, tag)
		}
	}
	if len(tags) > 0 {
		im.doc.block("service").set("tags", quoteAll(tags))
	}
}

// address makes one address to listen on of Patroni's list.
func (im *importer) address(e entry, port string) string {
	text := e.text()
	host, p, err := net.SplitHostPort(text)
	if err == nil {
		port = p
	} else {
		host = text
	}
	hosts := strings.Split(host, ",")
	if len(hosts) > 1 {
		im.note(e, "pgsidecar listens on one address, or on all: 0.0.0.0 is written; write the one that members and clients use, if others must not reach it")
		host = "0.0.0.0"
	}
	host = strings.Trim(host, "[] ")
	if host == "*" || host == "" {
		host = "0.0.0.0"
	}
	return net.JoinHostPort(host, port)
}

func (im *importer) listen(e entry) { im.doc.block("postgres").text("listen", im.address(e, "5432")) }

func (im *importer) apiListen(e entry) { im.doc.block("api").text("listen", im.address(e, "8008")) }

func (im *importer) apiCA(e entry) {
	tls := im.doc.block("api", "tls")
	tls.text("ca_file", e.text())
	if v := im.at("restapi", "verify_client"); v != nil && (v.Value == "required" || v.Value == "optional") {
		tls.text("client_ca_file", e.text())
	}
}

func (im *importer) verifyClient(e entry) {
	switch {
	case im.at("restapi", "cafile") == nil:
		im.note(e, "there is no cafile, so nobody's certificate can be checked")
	case e.text() == "required":
		im.doc.block("api", "tls").set("require_client_cert", "true")
		im.note(e, "health checks need a certificate too: haproxy { check_cert_file }")
	}
}

func (im *importer) apiAuthentication(e entry) {
	user, password := im.account(e)
	if password == "" {
		return
	}
	im.doc.block("api").text("token_file", im.secret("api.token", password))
	im.note(e, "its password is the token now, in a file; the user %q and any other are accepted with it", user)
}

// account reads username and password.
func (im *importer) account(e entry) (user, password string) {
	for i := 0; e.value.Content != nil && i+1 < len(e.value.Content); i += 2 {
		switch key, value := e.value.Content[i].Value, e.value.Content[i+1].Value; key {
		case "username":
			user = value
		case "password":
			password = value
		}
	}
	return user, password
}

func (im *importer) superuser(e entry)   { im.role(e, "superuser", "postgres") }
func (im *importer) replication(e entry) { im.role(e, "replication", "replicator") }

// role writes one of the two roles, and what its connections need.
func (im *importer) role(e entry, which, otherwise string) {
	user, password := im.account(e)
	if user == "" {
		user = otherwise
	}
	b := im.doc.block("postgres", which)
	b.text("name", user)
	file := which + ".password"
	if password == "" {
		im.note(e, "has no password: write one into %s; pgsidecar logs in with it", filepath.Join(im.secretsDir, file))
		b.text("password_file", filepath.Join(im.secretsDir, file))
	} else {
		b.text("password_file", im.secret(file, password))
	}
	for i := 0; i+1 < len(e.value.Content); i += 2 {
		at := entry{path: e.path + "." + e.value.Content[i].Value, line: e.value.Content[i].Line, value: e.value.Content[i+1]}
		switch e.value.Content[i].Value {
		case "username", "password":
		case "sslmode":
			if which == "replication" {
				im.from["sslmode"] = at.text()
			}
		case "sslrootcert":
			if which == "replication" {
				im.from["sslrootcert"] = at.text()
			}
		case "sslcert", "sslkey", "sslpassword", "sslcrl", "sslcrldir":
			im.note(at, "not needed: members show the server's certificate (postgres { tls }) and a password")
		default:
			im.note(at, "not supported")
		}
	}
}

func (im *importer) configDir(e entry) {
	im.note(e, "pgsidecar reads postgresql.conf, pg_hba.conf and pg_ident.conf in the data directory: copy them, and what they include, from %s into it "+
		"(without data_directory, hba_file and ident_file)", e.text())
}

func (im *importer) useRewind(e entry) {
	if !e.truth() {
		im.note(e, "pgsidecar rewinds a former primary if it can; what diverged is kept aside first. It cannot be switched off")
	}
}

func (im *importer) useSlots(e entry) {
	if !e.truth() {
		im.note(e, "pgsidecar keeps a slot for each other member, bounded by max_slot_wal_keep_size; it cannot be switched off")
	}
}

func (im *importer) recoveryConf(e entry) {
	for i := 0; i+1 < len(e.value.Content); i += 2 {
		at := entry{path: e.path + "." + e.value.Content[i].Value, line: e.value.Content[i].Line, value: e.value.Content[i+1]}
		switch e.value.Content[i].Value {
		case "recovery_target_timeline":
			im.note(at, "it is always the latest")
		case "restore_command":
			im.note(at, "not imported: a block backup has the archive that members read from")
		default:
			im.note(at, "not supported")
		}
	}
}

func (im *importer) replicaMethods(e entry) {
	if methods := e.texts(); !slices.Equal(methods, []string{"basebackup"}) {
		im.note(e, "%s are not imported: %s", strings.Join(methods, ", "), cloneByRules)
	}
}

// slots become the cluster's settings: physical ones.
func (im *importer) slots(e entry) {
	for i := 0; i+1 < len(e.value.Content); i += 2 {
		name, value := e.value.Content[i].Value, e.value.Content[i+1]
		at := entry{path: e.path + "." + name, line: e.value.Content[i].Line, value: value}
		kind := "physical"
		for j := 0; j+1 < len(value.Content); j += 2 {
			if value.Content[j].Value == "type" {
				kind = value.Content[j+1].Value
			}
		}
		if kind != "physical" {
			im.note(at, "%s slots are not imported: from PostgreSQL 17 on, make it with failover = true, and set failover_slots=true", kind)
			continue
		}
		im.settings = append(im.settings, fmt.Sprintf("pgsidecar settings set slots.%s.type=physical", name))
		im.note(at, "for a program that is no member: see the commands; members have slots of their own")
	}
}

func (im *importer) ident(e entry) {
	if lines := e.texts(); len(lines) > 0 && !im.doc.block("postgres").has("ident") {
		im.doc.block("postgres").set("ident", quoteAll(lines))
	}
}

func (im *importer) ttl(e entry) {
	if n, err := strconv.Atoi(e.text()); err == nil && n != 30 {
		im.note(e, "not taken over: a lost primary is replaced after failover.failure_timeout (2s), and stops itself after failover.lease (5s)")
	}
}

func (im *importer) maximumLag(e entry) {
	n, err := strconv.ParseInt(e.text(), 10, 64)
	if err != nil {
		im.note(e, "%q is no number of bytes", e.text())
		return
	}
	im.durability.maxLag, im.durability.lagAt = n, &e
}

func (im *importer) stopTimeout(e entry) {
	if n, err := strconv.Atoi(e.text()); err == nil && n > 0 {
		im.doc.block("postgres").text("stop_timeout", (time.Duration(n) * time.Second).String())
	}
}

func (im *importer) tag(e entry) {
	_, name, _ := cutLast(e.path)
	switch {
	case name == "replicatefrom":
		im.doc.block("tags").text(name, label(e.text()))
	case e.truth():
		im.doc.block("tags").set(name, "true")
	}
}

func (im *importer) priority(e entry) {
	n, err := strconv.Atoi(e.text())
	switch {
	case err != nil:
		im.note(e, "%q is no number", e.text())
	case n <= 0:
		im.doc.block("tags").set("nofailover", "true")
	default:
		im.doc.block("tags").set("priority", strconv.Itoa(n))
	}
}

func (im *importer) syncPriority(e entry) {
	n, err := strconv.Atoi(e.text())
	switch {
	case err != nil:
		im.note(e, "%q is no number", e.text())
	case n <= 0:
		im.doc.block("tags").set("nosync", "true")
	default:
		im.doc.block("tags").set("sync_priority", strconv.Itoa(n))
	}
}

// ownTag takes over a tag of other programs.
func (im *importer) ownTag(e entry) {
	_, name, _ := cutLast(e.path)
	if err := settings.CheckTag(name, e.text()); err != nil || e.text() == "" {
		im.note(e, "left out: %v", cmp.Or(err, errors.New("it has no value")))
		return
	}
	im.doc.block("tags").text(name, e.text())
}

// allowList takes over who may ask for changes.
func (im *importer) allowList(e entry) {
	var all []string
	for _, text := range e.texts() {
		if _, err := netip.ParsePrefix(text); err == nil {
			all = append(all, text)
		} else if _, err := netip.ParseAddr(text); err == nil {
			all = append(all, text)
		} else {
			im.note(e, "%q is left out: expected an address or a network; names are not looked up", text)
		}
	}
	if len(all) > 0 {
		im.doc.block("api").set("allow", quoteAll(all))
	}
}

func (im *importer) logLevel(e entry) {
	level := map[string]string{"DEBUG": "debug", "INFO": "info", "WARNING": "warn", "WARN": "warn", "ERROR": "error", "CRITICAL": "error"}[strings.ToUpper(e.text())]
	if level == "" {
		im.note(e, "not a level: debug, info, warn or error")
		return
	}
	im.doc.block("log").text("level", level)
}

func (im *importer) logFormat(e entry) {
	if e.text() == "json" {
		im.doc.block("log").text("format", "json")
	}
}

// callbacks become hooks, whose commands get Patroni's three arguments.
func (im *importer) callbacks(e entry) {
	on := map[string][]string{"on_role_change": {"primary", "replica"}, "on_start": {"primary", "replica"}, "on_stop": {"stopped"}}
	for i := 0; i+1 < len(e.value.Content); i += 2 {
		name, script := e.value.Content[i].Value, e.value.Content[i+1].Value
		at := entry{path: e.path + "." + name, line: e.value.Content[i].Line, value: e.value.Content[i+1]}
		kinds, ok := on[name]
		if !ok {
			im.note(at, "not supported: there are hooks for a role, a stop, a failover, a block, a drill and a backup")
			continue
		}
		if name == "on_start" && im.at("postgresql", "callbacks", "on_role_change") != nil {
			if im.at("postgresql", "callbacks", "on_role_change").Value == script {
				im.note(at, "is not written twice: the hook of on_role_change is run at a start as well")
				continue
			}
		}
		im.hook(strings.ReplaceAll(name, "_", "-"), kinds, script, name)
		im.note(at, "is run as PostgreSQL's user, with the arguments that Patroni gives (the role is primary, replica or stopped), and killed after 10 s: hook { timeout }")
	}
}

func (im *importer) hook(name string, on []string, script, argument string) {
	b := im.doc.block("hook " + quote(name))
	words := make([]string, len(on))
	for i, o := range on {
		words[i] = quote(o)
	}
	b.set("on", "["+strings.Join(words, ", ")+"]")
	line := "exec " + script
	if argument != "" {
		line += " " + argument + ` "$PGSIDECAR_ROLE" "$PGSIDECAR_CLUSTER"`
	}
	b.set("command", `["/bin/sh", "-c", `+quote(line)+"]")
}

// postInit becomes a hook, whose command gets Patroni's argument, a connection string.
func (im *importer) postInit(e entry) {
	if im.doc.block("hook \"post-init\"").has("on") {
		im.note(e, "is not written twice: post_bootstrap and post_init are one thing")
		return
	}
	im.hook("post-init", []string{"founded"}, e.text()+" postgres:///postgres", "")
	im.doc.block("hook \"post-init\"").text("timeout", "10m")
	im.note(e, "is run once a new cluster takes writes, as PostgreSQL's user; PGHOST, PGPORT and PGUSER name the server, not the URL in the argument. "+
		"If it fails the cluster stays, and nothing runs it again. An existing cluster is taken over as it is, without it")
}

func (im *importer) beforeStop(e entry) {
	im.hook("before-stop", []string{"before_stop"}, e.text(), "")
	im.note(e, "is run before a planned stop; no failover waits for it")
}

func (im *importer) prePromote(e entry) {
	im.hook("pre-promote", []string{"before_promote"}, e.text(), "")
	im.doc.block("hook "+quote("pre-promote")).text("on_failure", "abort")
}

// hbaLines are lines of pg_hba.conf with the rank of where they stand: Patroni takes
// those of postgresql, else of bootstrap.dcs.postgresql; those of bootstrap only make
// the first file.
type hbaLines struct {
	entry
	rank int
}

// finish writes what several keys have said.
func (im *importer) finish() {
	if !im.doc.top.has("cluster") {
		im.doc.top.text("cluster", "pg")
	}
	im.durability.write(im)
	im.parameters.write(im)
	im.writeHBA()
	for which, otherwise := range map[string]string{"superuser": "postgres", "replication": "replicator"} {
		if b := im.doc.block("postgres", which); !b.has("name") {
			b.text("name", otherwise)
			b.text("password_file", filepath.Join(im.secretsDir, which+".password"))
			im.note(entry{path: "postgresql.authentication." + which, line: 1}, "is missing: write the password of %q into %s", otherwise,
				filepath.Join(im.secretsDir, which+".password"))
		}
	}
	if im.at("restapi", "authentication") == nil && im.at("restapi", "verify_client") == nil {
		im.note(entry{path: "restapi.authentication", line: 1}, "is missing, and nobody may change anything without a token (switchover, restart, pause): "+
			"write one for all members into %[1]s, and put api { token_file = %[1]q } into each pg.hcl", filepath.Join(im.secretsDir, "api.token"))
	}
}

func (im *importer) writeHBA() {
	if len(im.hba) == 0 {
		return
	}
	best := slices.MaxFunc(im.hba, func(a, b hbaLines) int { return a.rank - b.rank })
	for _, other := range im.hba {
		if other.rank != best.rank {
			im.note(other.entry, "not imported: Patroni uses the lines of %s", best.path)
		}
	}
	var lines []string
	for i, line := range best.texts() {
		at := best.entry
		if best.value.Kind == yaml.SequenceNode {
			at.line = best.value.Content[i].Line
		}
		line = strings.TrimSpace(line)
		switch err := config.CheckHBA(line); {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case err != nil:
			im.note(at, "line %q is left out: %v", line, err)
			continue
		case config.SecretInHBA(line):
			im.note(at, "a line with a password is left out: everybody may read where it would stand")
			continue
		}
		im.warnHBA(at, line)
		lines = append(lines, line)
	}
	if len(lines) > 0 {
		im.doc.block("postgres").set("hba", quoteAll(lines))
	}
}

// warnHBA says what a line lets in that its writer may not have meant.
func (im *importer) warnHBA(at entry, line string) {
	words := strings.Fields(line)
	for _, w := range words {
		if p, err := netip.ParsePrefix(w); err == nil && p.Masked() != p {
			im.note(at, "%q: the mask covers more than this address: %s", line, p.Masked())
		}
	}
	if words[len(words)-1] == "trust" {
		im.note(at, "%q lets in without a password", line)
	}
}
