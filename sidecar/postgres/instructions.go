package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Instructions are what somebody has told PostgreSQL to do with the data at its next
// start: a directory that was restored by hand, or by a backup program, has them. They
// are carried out as they stand, where a cluster is founded, or refused; nothing here
// removes recovery.signal from data that stays. PostgreSQL does when it is done.
type Instructions struct {
	// Recovery: recovery.signal is there, so PostgreSQL fetches log by restore_command,
	// stops at the target, if there is one, and begins a new timeline.
	Recovery bool
	// Label: backup_label is there, so the data is a base backup that has not been
	// brought to a consistent state yet.
	Label bool
	// Settings are restore_command and recovery_target* as PostgreSQL would take them,
	// from the data directory's own files; nil unless Recovery.
	Settings map[string]string
}

// recoveryAction is the setting that says what comes after the target.
const recoveryAction = "recovery_target_action"

// String says it for people; empty: there is nothing to carry out.
func (in Instructions) String() string {
	if !in.Recovery {
		return ""
	}
	to := "to the end of the archived log"
	if name := in.target(); name != "" {
		to = "to " + name + " = " + quoteSetting(in.Settings[name])
	}
	if in.PausesAtEnd() {
		to += ", where it pauses until somebody executes select pg_wal_replay_resume()"
	}
	return "recovery " + to
}

// PausesAtEnd reports whether PostgreSQL waits at the target until somebody lets it go
// on (its default where there is a target).
func (in Instructions) PausesAtEnd() bool {
	action := in.Settings[recoveryAction]
	return in.target() != "" && (action == "" || action == "pause")
}

// target is the setting that says where to stop; empty: nowhere.
func (in Instructions) target() string {
	for _, name := range slices.Sorted(maps.Keys(in.Settings)) {
		switch {
		case name == "recovery_target_timeline", name == "recovery_target_inclusive", name == recoveryAction:
		case strings.HasPrefix(name, "recovery_target") && in.Settings[name] != "":
			return name
		}
	}
	return ""
}

// Instructions reads them. It changes nothing.
func (s *Server) Instructions() (Instructions, error) {
	var in Instructions
	for name, is := range map[string]*bool{"recovery.signal": &in.Recovery, "backup_label": &in.Label} {
		switch _, err := s.files.Lstat(s.data(name)); {
		case err == nil:
			*is = true
		case !errors.Is(err, fs.ErrNotExist):
			return in, fmt.Errorf("look for %s: %w", name, err)
		}
	}
	if !in.Recovery {
		return in, nil
	}
	user, err := s.readUserConf()
	if err != nil {
		return in, err
	}
	auto, err := s.files.ReadFile(s.data("postgresql.auto.conf"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return in, fmt.Errorf("read postgresql.auto.conf: %w", err)
	}
	in.Settings = recoverySettings(user.text + string(auto))
	return in, nil
}

// settingLine matches a line of a configuration file (PostgreSQL's guc-file.l).
var settingLine = regexp.MustCompile(`^\s*([A-Za-z_]\w*)\s*=?\s*('(?:[^'\\]|''|\\.)*'|[^'#\s]+)\s*(?:#.*)?$`)

// recoverySettings returns the settings of recovery in a configuration, the last of
// each name, as PostgreSQL does.
func recoverySettings(text string) map[string]string {
	set := map[string]string{}
	for line := range strings.Lines(text) {
		m := settingLine.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			continue
		}
		if name := strings.ToLower(m[1]); name == "restore_command" || strings.HasPrefix(name, "recovery_target") {
			set[name] = settingValue(m[2])
		}
	}
	return set
}

// settingValue reads a value as a configuration file has it.
func settingValue(text string) string {
	if !strings.HasPrefix(text, "'") {
		return text
	}
	return strings.NewReplacer("''", "'", `\'`, "'", `\\`, `\`).Replace(text[1 : len(text)-1])
}

// obey returns what a start is to carry out, or ErrInstructed where it must not: only
// who founds a cluster may, and PostgreSQL is not to stop at the end of it.
func (s *Server) obey(primary bool) (Instructions, error) {
	in, err := s.Instructions()
	switch {
	case err != nil || !in.Recovery:
		return Instructions{}, err
	case !primary:
		return in, fmt.Errorf("%w: %s has recovery.signal (%s), and a replica only follows its primary. "+
			"Remove that file if the recovery is not wanted", ErrInstructed, s.o.DataDir, in)
	case in.Settings[recoveryAction] == "shutdown":
		return in, fmt.Errorf("%w: %s = shutdown would end each start; set it to promote or pause in the configuration of %s",
			ErrInstructed, recoveryAction, s.o.DataDir)
	}
	s.log.Info("carrying out what PostgreSQL was told by recovery.signal", "what", in.String(), "pauses_at_end", in.PausesAtEnd())
	return in, nil
}

// asBackedUp gives a recovery what the server had that was backed up, or more: with less
// PostgreSQL does not begin it. The start after it uses the settings alone.
func (s *Server) asBackedUp(ctx context.Context, set Settings) (Settings, error) {
	c, err := s.control(ctx, s.o.DataDir)
	if err != nil {
		return set, err
	}
	now := set.Parameters
	set.Parameters = maps.Clone(now)
	if set.Parameters == nil {
		set.Parameters = map[string]string{}
	}
	for name, least := range c.limits {
		key := name
		for k := range now {
			if strings.EqualFold(k, name) {
				key = k
			}
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(now[key]), 10, 64); err != nil || n < least {
			set.Parameters[key] = strconv.FormatInt(least, 10)
		}
	}
	return set, nil
}
