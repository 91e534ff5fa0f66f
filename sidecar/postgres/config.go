package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// checkSettings finds what must not be, before anything is written.
func checkSettings(set Settings) error {
	// Whether commits wait is for others to know: what is too weak is overridden (enforce).
	if err := parameters.CheckAll(set.Parameters, false); err != nil {
		return err
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
	"max_wal_senders = 16",       // members, their clones, and some to spare
	"max_replication_slots = 16", // one for each other member, and the user's
	"wal_sender_timeout = 5s",    // a dead replica's walsender is gone before it matters
	// A replica whose primary is gone tries it again at this interval, with a process each time
	// (60 ms of processor measured), while an election needs the machine. A new upstream is tried
	// at once: a reload wakes the startup process (xlogrecovery.c).
	"wal_retrieve_retry_interval = 500ms",
	"wal_receiver_status_interval = 1s",
	"password_encryption = 'scram-sha-256'",
	"wal_level = 'replica'",
}

// boundLines bound the log that is kept for others, as the disk of pg_wal allows; disk is its
// size in bytes, 0: not known.
func boundLines(disk int64) []string {
	keep, slots := int64(512), int64(16<<10) // MB
	if mb := disk >> 20; mb > 0 {
		keep, slots = min(keep, max(mb/16, 1)), min(slots, max(mb/4, 1))
	}
	return []string{
		fmt.Sprintf("wal_keep_size = %dMB", keep),           // so that a rewound or restarted member streams on
		fmt.Sprintf("max_slot_wal_keep_size = %dMB", slots), // a member that is gone for days must not fill the disk
	}
}

// archiveTimeout bounds what the loss of all members costs, where little is written.
const archiveTimeout = "archive_timeout = 60s"

// render writes the configuration the server is started with; user is the copy of the
// user's own file.
func (s *Server) render(set Settings, user string) string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%s = %s\n", name, quoteSetting(value)) }
	b.WriteString("# Written by pgsidecar: changes are lost. Yours belong into " + s.data("postgresql.conf") +
		"\n# or into the configuration of pgsidecar.\n" + lifeLine + "\n# Defaults.\n")
	for _, l := range append(boundLines(s.diskOfLog()), softLines[:]...) {
		b.WriteString(l + "\n")
	}
	if s.o.WAL.ArchiveCommand != "" {
		b.WriteString(archiveTimeout + "\n")
	}
	b.WriteString("\n# What the data directory says.\n")
	b.WriteString("include " + quoteSetting(user) + "\n")
	b.WriteString("\n# What the configuration of pgsidecar says.\n")
	for _, name := range slices.Sorted(maps.Keys(set.Parameters)) {
		if !strings.EqualFold(name, socketDirectories) {
			line(name, set.Parameters[name])
		}
	}
	b.WriteString("\n# What must be so.\n")
	if tls := s.o.TLS; tls.CertFile != "" {
		line("ssl", "on")
		line("ssl_cert_file", tls.CertFile)
		line("ssl_key_file", tls.KeyFile)
		line("ssl_ca_file", tls.CAFile)
	}
	line("data_directory", s.o.DataDir)
	for _, l := range s.fixed(set) {
		line(l[0], l[1])
	}
	if set.enforce {
		line("synchronous_commit", "on")
	}
	if set.destination != "" {
		line("log_destination", set.destination)
	}
	line("wal_receiver_timeout", fmt.Sprintf("%dms", s.o.WALReceiverTimeout.Milliseconds()))
	b.WriteString("\n# Whom the server follows, and who follows it: changed while it runs.\n")
	b.WriteString("include " + quoteSetting(s.state(controlFile)) + "\n")
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
func (s *Server) renderHBA(ctx context.Context, set Settings, hidden bool) (string, error) {
	if hidden {
		return s.ourRules(true), nil
	}
	user, err := s.acceptedRules(ctx, hbaFile, set.HBA)
	return s.ourRules(false) + usersHead + user, err
}

func (s *Server) ourRules(hidden bool) string {
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
	return ours
}

// renderIdent maps the operating system users that the sidecar runs as.
func (s *Server) renderIdent(ctx context.Context, set Settings) (string, error) {
	super := quoteName(s.o.SuperuserName)
	ours := "# Written by pgsidecar: changes are lost.\npgsidecar " + quoteName(s.o.User) + " " + super + "\n"
	if s.switchID {
		ours += "pgsidecar root " + super + "\n"
	}
	user, err := s.acceptedRules(ctx, identFile, set.Ident)
	return ours + usersHead + user, err
}

// quoteName writes a name as pg_hba.conf has it.
func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// writeConfig writes the server's files. What PostgreSQL refuses is not put in the
// place of what it took before; where that is the user's own file, the last that it
// took is used, and ConfigProblem says why.
func (s *Server) writeConfig(ctx context.Context, set Settings, hidden bool) error {
	if err := checkSettings(set); err != nil {
		return err
	}
	if err := s.MakeState(); err != nil {
		return err
	}
	key := s.rulesKey(set)
	s.mu.Lock()
	s.rules.tried = key // also where they cannot be read: Refresh tries each state once
	s.mu.Unlock()
	hba, err := s.renderHBA(ctx, set, hidden)
	if err != nil {
		return err
	}
	ident, err := s.renderIdent(ctx, set)
	if err != nil {
		return err
	}
	user, commit, err := s.chooseUserConf(ctx, set)
	if err != nil {
		return err
	}
	set.enforce = set.Durable && slices.Contains(weakCommits, commit)
	set.destination = s.destination(ctx, set, user)
	if err := errors.Join(s.writePassfile(), s.voidLife()); err != nil {
		return err
	}
	for _, f := range [...][2]string{{userFile, user}, {"postgresql.conf", s.render(set, s.state(userFile))}, {"pg_hba.conf", hba}, {"pg_ident.conf", ident}} {
		if was, err := s.files.ReadFile(s.state(f[0])); err == nil && string(was) == f[1] {
			continue
		}
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
	if err := s.MakeState(); err != nil {
		return err
	}
	line := "*:*:*:" + escape.Replace(s.o.ReplicationName) + ":" + escape.Replace(password) + "\n"
	if was, err := s.files.ReadFile(s.Passfile()); err == nil && string(was) == line {
		return nil
	}
	return s.write(s.Passfile(), []byte(line))
}

// KeepPassfile has the server connect with the replication password as it is now: libpq
// reads the file at each connection.
func (s *Server) KeepPassfile() error { return s.writePassfile() }

func (s *Server) isHidden() bool {
	content, err := s.files.ReadFile(s.state("pg_hba.conf"))
	return err == nil && strings.HasPrefix(string(content), hiddenLine)
}

// Hide keeps new clients out; those connected stay (S9).
func (s *Server) Hide(ctx context.Context) error { return s.reload(ctx, s.current(), true) }

// Unhide lets clients in. From then on what was restored is not undone.
func (s *Server) Unhide(ctx context.Context) error {
	if _, err := s.settle(); err != nil {
		return err
	}
	return s.reload(ctx, s.current(), false)
}

func (s *Server) isStandby() bool {
	_, err := s.files.Lstat(s.data("standby.signal"))
	return err == nil
}

// Try returns what PostgreSQL itself refuses about the settings: ErrSetting, and
// Check's errors. It changes nothing.
// It loads the libraries and counts the memory too, as a start would.
func (s *Server) Try(ctx context.Context, set Settings) error {
	user, err := s.tryFiles(ctx, set)
	if err != nil {
		return err
	}
	if err := s.tryStart(ctx, set, user); err != nil {
		return err
	}
	if slices.Equal(set.HBA, s.current().HBA) {
		return nil // they are read already
	}
	return s.TryRules(ctx, set)
}

// tryFiles has PostgreSQL read the files with the settings in them, and returns which
// text of the user's it took.
func (s *Server) tryFiles(ctx context.Context, set Settings) (text string, err error) {
	if err := checkSettings(set); err != nil {
		return "", err
	}
	if err := parameters.CheckSockets(set.Parameters, s.o.DataDir); err != nil {
		return "", err
	}
	if err := s.ensureControl(); err != nil {
		return "", err
	}
	user, err := s.readUserConf()
	text = user.text
	if err == nil {
		_, err = s.tryConf(ctx, set, text)
	}
	if err != nil { // perhaps by the user's own file: the last good one is then in its place
		kept, found := s.keptUserConf()
		if !found {
			return "", err
		}
		text = kept
		_, err = s.tryConf(ctx, set, text)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s", ErrSetting, draftNoise.ReplaceAllString(err.Error(), ""))
	}
	return text, nil
}

// draftNoise is what PostgreSQL says of a draft's file, which nobody has written.
var draftNoise = regexp.MustCompile(`^the configuration is not valid: | in file "[^"]*" line \d+|; FATAL:  configuration file "[^"]*" contains errors|LOG:  `)

// Check returns what Reload would refuse about the settings by itself: ErrOwned
// for what must be ours, ErrSetting for what cannot be.
func Check(set Settings) error { return checkSettings(set) }

// Preset gives the next start other settings. On an error nothing has changed.
func (s *Server) Preset(ctx context.Context, set Settings) error {
	now := s.current()
	if now.Durable == set.Durable && maps.Equal(now.Parameters, set.Parameters) && (now.HBA == nil) == (set.HBA == nil) && slices.Equal(now.HBA, set.HBA) && slices.Equal(now.Ident, set.Ident) {
		return nil
	}
	user, err := s.tryFiles(ctx, set)
	if err != nil {
		return err
	}
	if err := s.settingsBear(ctx, set, now, user); err != nil {
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
	if err := s.mendAuto(ctx, set, false); err != nil {
		return err
	}
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
