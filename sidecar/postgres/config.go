package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// ownedReasons are the parameters that pgsidecar sets itself, each with why nobody
// else may.
var ownedReasons = [...][2]string{
	{"cluster_name", "it is the member's name"},
	{"config_file", "it is pgsidecar's own file"},
	{"data_directory", "use data_dir"},
	{"fsync", "without it an acknowledged commit can be lost"},
	{"full_page_writes", "without it a crash can damage the data"},
	{"hba_file", "use hba"},
	{"hot_standby", "replicas are looked at by SQL"},
	{"ident_file", "use ident"},
	{"listen_addresses", "use listen"},
	{"port", "use listen"},
	{"primary_conninfo", "replication follows the cluster's leader"},
	{"primary_slot_name", "replication follows the cluster's leader"},
	{"promote_trigger_file", "promotions are elections"},
	{"restart_after_crash", "a crash must be seen, so that the cluster can answer it"},
	{"restore_command", "use the restore settings, so that a voter can stop it"},
	{"synchronous_standby_names", "use durability"},
	{"wal_log_hints", "pg_rewind needs it"},
	{"wal_receiver_timeout", "use failure_timeout"},
}

// ownedReason says why a parameter may not be given; empty: it may.
func ownedReason(name string) string {
	name = strings.ToLower(name)
	if strings.HasPrefix(name, "recovery_target") {
		return "a replica always goes on to the newest timeline"
	}
	for _, o := range ownedReasons {
		if o[0] == name {
			return o[1]
		}
	}
	return ""
}

var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*$`)

// checkSettings finds what must not be, before anything is written.
func checkSettings(set Settings) error {
	for _, name := range slices.Sorted(maps.Keys(set.Parameters)) {
		value := set.Parameters[name]
		switch why := ownedReason(name); {
		case !parameterName.MatchString(name):
			return fmt.Errorf("parameter %q: no such name: %w", name, ErrSetting)
		case why != "":
			return fmt.Errorf("parameter %s: %w: %s", name, ErrOwned, why)
		case strings.EqualFold(name, "wal_level") && value != "replica" && value != "logical":
			return fmt.Errorf("parameter wal_level = %q: replication needs replica or logical: %w", value, ErrSetting)
		case strings.ContainsAny(value, "\n\r\x00"):
			return fmt.Errorf("parameter %s: a line break in the value: %w", name, ErrSetting)
		}
	}
	for _, line := range slices.Concat(set.HBA, set.Ident) {
		if strings.ContainsAny(line, "\n\r\x00") {
			return fmt.Errorf("line %q has a line break: %w", line, ErrSetting)
		}
	}
	return nil
}

// softLines are our defaults: the user's own file and parameters come after them.
var softLines = [...]string{
	"max_wal_senders = 16",                // members, their clones, and some to spare
	"max_replication_slots = 16",          // one for each other member, and the user's
	"wal_keep_size = 512MB",               // so that a rewound or restarted member streams on
	"max_slot_wal_keep_size = 16GB",       // a member that is gone for days must not fill the disk
	"wal_sender_timeout = 5s",             // a dead replica's walsender is gone before it matters
	"wal_retrieve_retry_interval = 100ms", // a replica finds its way to a new timeline soon
	"wal_receiver_status_interval = 1s",
	"password_encryption = 'scram-sha-256'",
	"wal_level = 'replica'",
}

// render writes the configuration the server is started with.
func (s *Server) render(set Settings) string {
	host, port, _ := net.SplitHostPort(s.o.Listen) // checked by New
	if host == "" {
		host = "*"
	}
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%s = %s\n", name, quoteSetting(value)) }
	b.WriteString("# Written by pgsidecar: changes are lost. Yours belong into " + s.data("postgresql.conf") +
		"\n# or into the configuration of pgsidecar.\n\n# Defaults.\n")
	for _, l := range softLines {
		b.WriteString(l + "\n")
	}
	b.WriteString("\n# What the data directory says.\n")
	b.WriteString("include_if_exists " + quoteSetting(s.data("postgresql.conf")) + "\n")
	b.WriteString("\n# What the configuration of pgsidecar says.\n")
	sockets := s.sock
	for _, name := range slices.Sorted(maps.Keys(set.Parameters)) {
		if strings.EqualFold(name, "unix_socket_directories") {
			sockets += ", " + set.Parameters[name]
			continue
		}
		line(name, set.Parameters[name])
	}
	b.WriteString("\n# What must be so.\n")
	if tls := s.o.TLS; tls.CertFile != "" {
		line("ssl", "on")
		line("ssl_cert_file", tls.CertFile)
		line("ssl_key_file", tls.KeyFile)
		line("ssl_ca_file", tls.CAFile)
	}
	line("data_directory", s.o.DataDir)
	line("hba_file", s.state("pg_hba.conf"))
	line("ident_file", s.state("pg_ident.conf"))
	line("listen_addresses", host)
	line("port", port)
	line("unix_socket_directories", sockets)
	line("cluster_name", s.o.Member)
	line("hot_standby", "on")
	line("wal_log_hints", "on")
	line("fsync", "on")
	line("full_page_writes", "on")
	line("restart_after_crash", "off")
	line("recovery_target_timeline", "latest")
	line("wal_receiver_timeout", fmt.Sprintf("%dms", s.o.WALReceiverTimeout.Milliseconds()))
	return b.String()
}

// quoteSetting writes a value as a configuration file has it.
func quoteSetting(value string) string {
	return "'" + strings.NewReplacer("'", "''", `\`, `\\`).Replace(value) + "'"
}

// hiddenLine is the first line of a pg_hba.conf that keeps clients out.
const hiddenLine = "# Clients are kept out until what waited for replicas is safe."

// renderHBA writes who may connect: the sidecar, replication and pg_rewind; and
// the user's clients unless they are kept out (S9).
func (s *Server) renderHBA(set Settings, hidden bool) (string, error) {
	super, repl := quoteName(s.o.SuperuserName), quoteName(s.o.ReplicationName)
	head := "# Written by pgsidecar: changes are lost.\n"
	if hidden {
		head = hiddenLine + "\n" + head
	}
	host := "host "
	if s.o.TLS.Require {
		host = "hostssl "
	}
	ours := head + "local all         " + super + " peer map=pgsidecar\n" +
		host + " replication " + repl + " all scram-sha-256\n" +
		host + " postgres    " + repl + " all scram-sha-256\n"
	if s.o.TLS.Require { // no line of the user's lets them in without TLS
		ours += "hostnossl all " + repl + " all reject\nhostnossl replication " + repl + " all reject\n"
	}
	if hidden {
		return ours, nil
	}
	user, err := s.usersLines("pg_hba.conf", set.HBA)
	return ours + user, err
}

// renderIdent maps the operating system users that the sidecar runs as.
func (s *Server) renderIdent(set Settings) (string, error) {
	super := quoteName(s.o.SuperuserName)
	ours := "# Written by pgsidecar: changes are lost.\npgsidecar " + quoteName(s.o.User) + " " + super + "\n"
	if s.switchID {
		ours += "pgsidecar root " + super + "\n"
	}
	user, err := s.usersLines("pg_ident.conf", set.Ident)
	return ours + user, err
}

// usersLines returns the configured lines, or else those of the data directory.
func (s *Server) usersLines(name string, lines []string) (string, error) {
	if lines != nil {
		return "# From the configuration of pgsidecar.\n" + strings.Join(lines, "\n") + "\n", nil
	}
	content, err := os.ReadFile(s.data(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the data directory's %s: %w", name, err)
	}
	return "# From " + s.data(name) + ".\n" + string(content), nil
}

// quoteName writes a name as pg_hba.conf has it.
func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// writeConfig writes the three files. What PostgreSQL refuses is not put in the
// place of what it took before.
func (s *Server) writeConfig(ctx context.Context, set Settings, hidden bool) error {
	if err := checkSettings(set); err != nil {
		return err
	}
	if err := s.makeState(); err != nil {
		return err
	}
	hba, err := s.renderHBA(set, hidden)
	if err != nil {
		return err
	}
	ident, err := s.renderIdent(set)
	if err != nil {
		return err
	}
	conf, try := s.render(set), s.state("postgresql.conf.new")
	if err := s.write(try, []byte(conf)); err != nil {
		return err
	}
	defer os.Remove(try) // only a draft
	if _, err := s.program(ctx, "postgres", []string{"-C", "data_directory", "-D", s.o.DataDir,
		"-c", "config_file=" + try}, runOptions{}); err != nil {
		return fmt.Errorf("%w: %w", ErrSetting, err)
	}
	if err := s.writePassfile(); err != nil {
		return err
	}
	for _, f := range [...][2]string{{"postgresql.conf", conf}, {"pg_hba.conf", hba}, {"pg_ident.conf", ident}} {
		if err := s.write(s.state(f[0]), []byte(f[1])); err != nil {
			return err
		}
	}
	return nil
}

// writePassfile writes the replication password where libpq looks for it. It is
// in no argument and no environment.
func (s *Server) writePassfile() error {
	if s.o.ReplicationPassword == nil {
		return nil
	}
	password, err := s.o.ReplicationPassword()
	if err != nil {
		return fmt.Errorf("read the replication password: %w", err)
	}
	if strings.ContainsAny(password, "\n\r\x00") {
		return errors.New("read the replication password: it has a line break")
	}
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`)
	if err := s.makeState(); err != nil {
		return err
	}
	return s.write(s.Passfile(), []byte("*:*:*:"+escape.Replace(s.o.ReplicationName)+":"+escape.Replace(password)+"\n"))
}

func (s *Server) isHidden() bool {
	content, err := os.ReadFile(s.state("pg_hba.conf"))
	return err == nil && strings.HasPrefix(string(content), hiddenLine)
}

// Hide keeps new clients out; those connected stay (S9).
func (s *Server) Hide(ctx context.Context) error { return s.reload(ctx, s.current(), true) }

// Unhide lets clients in.
func (s *Server) Unhide(ctx context.Context) error { return s.reload(ctx, s.current(), false) }

// standbyLimits are the settings of which a standby must have at least what its
// primary has, or it does not start (PostgreSQL documentation, section 27.4.3).
var standbyLimits = [...]string{"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions",
	"max_locks_per_transaction"}

// forStandby raises settings that are below what the primary had when it wrote
// what this standby has replayed: the primary must be restarted with less first.
func (s *Server) forStandby(ctx context.Context, set Settings) (Settings, error) {
	raised, err := s.raise(ctx, set)
	if err != nil {
		return set, err
	}
	for name, value := range raised {
		s.log.Warn("a standby needs what its primary has; restart the primary first to have less",
			"parameter", name, "wanted", set.Parameters[name], "primary", value)
	}
	s.setRaised(raised)
	set.Parameters = maps.Clone(set.Parameters)
	maps.Copy(set.Parameters, raised)
	return set, nil
}

// raise returns what a standby must have more of than the settings say.
func (s *Server) raise(ctx context.Context, set Settings) (map[string]string, error) {
	c, err := s.control(ctx, s.o.DataDir)
	if err != nil {
		return nil, err
	}
	raised := map[string]string{}
	for name, value := range set.Parameters {
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		if least, is := c.limits[strings.ToLower(name)]; is && err == nil && n < least {
			raised[name] = strconv.FormatInt(least, 10)
		}
	}
	return raised, nil
}

func (s *Server) setRaised(raised map[string]string) {
	s.mu.Lock()
	s.raised = raised
	s.mu.Unlock()
}

// Outgrown reports whether what was raised for a standby is not needed any more:
// its primary has less by now, or it is a primary itself. Then a Reload makes the
// server wait for a restart, and say so. Nobody tells when.
func (s *Server) Outgrown(ctx context.Context) (bool, error) {
	s.mu.Lock()
	before, set := s.raised, s.settings
	s.mu.Unlock()
	if len(before) == 0 || !s.isStandby() {
		return len(before) > 0, nil
	}
	needed, err := s.raise(ctx, set)
	return !maps.Equal(needed, before), err
}

func (s *Server) isStandby() bool {
	_, err := os.Lstat(s.data("standby.signal"))
	return err == nil
}

// Try returns what PostgreSQL itself refuses about the settings: ErrSetting, and
// Check's errors. It changes nothing.
func (s *Server) Try(ctx context.Context, set Settings) error {
	if err := checkSettings(set); err != nil {
		return err
	}
	draft := s.state("postgresql.conf.try-" + rand.Text())
	if err := s.write(draft, []byte(s.render(set))); err != nil {
		return err
	}
	defer os.Remove(draft) // only a draft
	if _, err := s.program(ctx, "postgres", []string{"-C", "data_directory", "-D", s.o.DataDir,
		"-c", "config_file=" + draft}, runOptions{}); err != nil {
		return fmt.Errorf("%w: %s", ErrSetting, draftNoise.ReplaceAllString(err.Error(), ""))
	}
	return nil
}

// draftNoise is what PostgreSQL says of a draft's file, which nobody has written.
var draftNoise = regexp.MustCompile(` in file "[^"]*" line \d+|; FATAL:  configuration file "[^"]*" contains errors|LOG:  `)

// Check returns what Reload would refuse about the settings by itself: ErrOwned
// for what must be ours, ErrSetting for what cannot be.
func Check(set Settings) error { return checkSettings(set) }

// Preset gives the next start other settings. On an error nothing has changed.
func (s *Server) Preset(ctx context.Context, set Settings) error {
	now := s.current()
	if maps.Equal(now.Parameters, set.Parameters) && (now.HBA == nil) == (set.HBA == nil) && slices.Equal(now.HBA, set.HBA) && slices.Equal(now.Ident, set.Ident) {
		return nil
	}
	if err := s.Try(ctx, set); err != nil {
		return err
	}
	s.mu.Lock()
	s.settings = set
	s.mu.Unlock()
	return nil
}

// Reload takes other settings up. On an error nothing has changed.
func (s *Server) Reload(ctx context.Context, set Settings) error {
	s.mu.Lock()
	hidden := s.hidden
	s.mu.Unlock()
	if err := s.reload(ctx, set, hidden); err != nil {
		return err
	}
	s.mu.Lock()
	s.settings = set
	s.mu.Unlock()
	return nil
}

func (s *Server) current() Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

func (s *Server) reload(ctx context.Context, set Settings, hidden bool) error {
	if !s.isStandby() {
		s.setRaised(nil)
	} else {
		var err error
		if set, err = s.forStandby(ctx, set); err != nil {
			return err
		}
	}
	if err := s.writeConfig(ctx, set, hidden); err != nil {
		return err
	}
	s.mu.Lock()
	s.hidden = hidden
	s.mu.Unlock()
	if err := s.guard.Signal(ctx, int(syscall.SIGHUP)); err != nil {
		return fmt.Errorf("reload the server: %w", err)
	}
	return nil
}

// ownLines are the settings in postgresql.auto.conf that are ours while the
// server is stopped; while it runs they are changed by ALTER SYSTEM.
func ownLines(sync string, up Upstream) [][2]string {
	return [][2]string{
		{"primary_conninfo", up.ConnInfo},
		{"primary_slot_name", up.Slot},
		{"restore_command", ""},
		{"synchronous_standby_names", sync},
	}
}

// writeAuto edits postgresql.auto.conf: ours are set, what would end recovery
// early is dropped, and all else stays as ALTER SYSTEM wrote it.
func (s *Server) writeAuto(sync string, up Upstream) error {
	path := s.data("postgresql.auto.conf")
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(content)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name = strings.TrimSpace(name); ownedReason(name) == "" {
			b.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	for _, l := range ownLines(sync, up) {
		b.WriteString(l[0] + " = " + quoteSetting(l[1]) + "\n")
	}
	if b.String() == string(content) {
		return nil
	}
	return s.write(path, []byte(b.String()))
}

// frozen is synchronous_standby_names of every standby: no replica has that
// name, so a server that leaves recovery without an election acknowledges
// nothing; and the checkpointer has long seen that there is a setting when an
// election gives it the real one.
const frozen = `FIRST 999 ("pgsidecar:nobody")`

// syncNames writes synchronous_standby_names.
func syncNames(set ha.SyncSetting) string {
	if set.K == 0 || len(set.Names) == 0 {
		return ""
	}
	names := make([]string, len(set.Names))
	for i, n := range set.Names {
		names[i] = quoteName(n)
	}
	return fmt.Sprintf("ANY %d (%s)", set.K, strings.Join(names, ", "))
}

func (s *Server) logFile() string { return filepath.Join(s.o.StateDir, "postgresql.log") }
