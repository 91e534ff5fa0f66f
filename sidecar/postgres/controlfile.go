package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// controlFile holds the settings by which replication is controlled. It is the last
// that our configuration includes; the cluster's decisions change it while the server
// runs. ALTER SYSTEM would do as well until somebody's file or setting forbids it.
const controlFile = "control.conf"

// controlled are the settings in it. synchronized_standby_slots is there only where it
// has a value: PostgreSQL before 17 does not know it.
var controlled = []string{"primary_conninfo", "primary_slot_name", "restore_command", "synchronous_standby_names", "synchronized_standby_slots"}

// controlLine is a line of the file, as SetControl writes it.
var controlLine = regexp.MustCompile(`^(\w+) = '((?:[^']|'')*)'$`)

// Control reads the file; one that is not there is empty.
func (s *Server) Control() (map[string]string, error) {
	content, err := s.files.ReadFile(s.state(controlFile))
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the replication settings: %w", err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(content)) {
		if m := controlLine.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			values[m[1]] = strings.NewReplacer("''", "'", `\\`, `\`).Replace(m[2])
		}
	}
	return values, nil
}

// SetControl changes settings in the file, durably. It is in effect after a reload.
func (s *Server) SetControl(values map[string]string) error {
	all, err := s.Control()
	if err != nil {
		return err
	}
	maps.Copy(all, values)
	if all["synchronized_standby_slots"] == "" {
		delete(all, "synchronized_standby_slots")
	}
	var b strings.Builder
	b.WriteString("# Written by pgsidecar: changes are lost.\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(controlled, name) || strings.ContainsAny(all[name], "\n\r\x00") {
			return fmt.Errorf("set %s = %q: not a replication setting: %w", name, all[name], ErrSetting)
		}
		b.WriteString(name + " = " + quoteSetting(all[name]) + "\n")
	}
	if err := s.MakeState(); err != nil {
		return err
	}
	return s.write(s.state(controlFile), []byte(b.String()))
}

// startControl is what the file says when the server starts.
func (s *Server) startControl(sync string, up Upstream, told Instructions) error {
	fetch := told.Settings["restore_command"]
	if up.Line.Known() {
		fetch = s.FetchCommand()
	}
	return s.SetControl(map[string]string{"primary_conninfo": up.ConnInfo, "primary_slot_name": up.Slot,
		"restore_command": fetch, "synchronous_standby_names": sync})
}

// ensureControl makes the file, so that the configuration can include it.
func (s *Server) ensureControl() error {
	_, err := s.files.Stat(s.state(controlFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s.SetControl(nil)
	}
	return err
}

// cleanAuto takes out of postgresql.auto.conf, which PostgreSQL reads last, what would
// undo our control of the server; all else stays as ALTER SYSTEM wrote it, and so does
// what is told of a recovery, until that is done. A file without such lines is not
// touched: it may be a link, or nobody's to write.
func (s *Server) cleanAuto(told Instructions) error {
	path := s.data("postgresql.auto.conf")
	content, err := s.files.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	var b strings.Builder
	dropped, needed := []string{}, false
	for line := range strings.Lines(string(content)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if _, obeyed := told.Settings[name]; obeyed || parameters.Owned(name) == "" && name != socketDirectories {
			b.WriteString(strings.TrimRight(line, "\n") + "\n")
			continue
		}
		dropped = append(dropped, name)
		needed = needed || slices.Contains(controlled, name)
	}
	if len(dropped) == 0 {
		return nil
	}
	s.log.Info("taking out of postgresql.auto.conf what pgsidecar sets itself", "settings", dropped)
	if real, err := s.files.EvalSymlinks(path); err == nil {
		path = real // a link stays one
	}
	if err = s.write(path, []byte(b.String())); err != nil && needed {
		return fmt.Errorf("take %s out of postgresql.auto.conf: %w", strings.Join(dropped, ", "), err)
	}
	if err != nil { // the command line comes before it
		s.log.Warn("postgresql.auto.conf cannot be written; its values of these settings have no effect", "settings", dropped, "error", err)
	}
	return nil
}

// recoveryTargets are what a server has that is told of no recovery.
var recoveryTargets = [...][2]string{{"recovery_target_timeline", "latest"}, {"recovery_target", ""}, {"recovery_target_name", ""},
	{"recovery_target_time", ""}, {"recovery_target_xid", ""}, {"recovery_target_lsn", ""}}

const socketDirectories = parameters.SocketDirectories

// fixed are the settings that must be so whatever the user's files and ALTER SYSTEM
// say, and that no decision changes while the server runs.
func (s *Server) fixed(set Settings) [][2]string {
	host, port, _ := net.SplitHostPort(s.o.Listen) // checked by New
	if host == "" {
		host = "*"
	}
	sockets := s.sock
	for name, value := range set.Parameters {
		if strings.EqualFold(name, socketDirectories) && strings.TrimSpace(value) != "" {
			sockets += ", " + value
		}
	}
	lines := [][2]string{
		{"hba_file", s.state("pg_hba.conf")}, {"ident_file", s.state("pg_ident.conf")},
		{"listen_addresses", host}, {"port", port}, {socketDirectories, sockets},
		{"cluster_name", s.o.Member}, {"hot_standby", "on"}, {"wal_log_hints", "on"},
		{"fsync", "on"}, {"full_page_writes", "on"}, {"data_sync_retry", "off"}, {"restart_after_crash", "off"},
	}
	// What an earlier recovery to a point in time left would stop replay there, or end it.
	for _, target := range recoveryTargets {
		if _, told := set.recovery[target[0]]; !told {
			lines = append(lines, target)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set.recovery)) {
		if name != "restore_command" {
			lines = append(lines, [2]string{name, set.recovery[name]})
		}
	}
	if s.version < 16 {
		lines = append(lines, [2]string{"promote_trigger_file", ""})
	}
	if s.version >= 17 {
		lines = append(lines, [2]string{"allow_alter_system", "on"})
	}
	if s.o.WAL.ArchiveCommand == "" {
		return lines
	}
	// Not always: a standby's copy of a segment may differ in bytes that do not count.
	lines = append(lines, [2]string{"archive_mode", "on"}, [2]string{"archive_command", s.o.WAL.ArchiveCommand})
	if s.version >= 15 {
		lines = append(lines, [2]string{"archive_library", ""})
	}
	return lines
}

// arguments are the postmaster's. They come before every file, so what must be so is
// there too.
func (s *Server) arguments(set Settings) []string {
	args := []string{"-D", s.o.DataDir, "-c", "config_file=" + s.state("postgresql.conf")}
	for _, l := range s.fixed(set) {
		args = append(args, "-c", l[0]+"="+l[1])
	}
	return append(args, s.raisedArguments()...)
}
