package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// standbyLimits are the settings of which a standby must have at least what its
// primary has, or it does not start, and does not replay (PostgreSQL documentation,
// section 27.4.3).
var standbyLimits = [...]string{"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions",
	"max_locks_per_transaction"}

// defaultLimits are what a server has of them that nothing is said to: PostgreSQL's own,
// and of max_wal_senders ours.
var defaultLimits = map[string]int64{"max_connections": 100, "max_worker_processes": 8, "max_wal_senders": 16,
	"max_prepared_transactions": 0, "max_locks_per_transaction": 64}

// forStandby raises settings that are below what the primary had when it wrote
// what this standby has replayed, wherever they come from: the primary must be restarted
// with less first.
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
	next := maps.Clone(raised)
	for name, value := range set.Parameters { // as they are spelled there
		if least, is := raised[strings.ToLower(name)]; is {
			delete(next, strings.ToLower(name))
			value = least
		}
		next[name] = value
	}
	set.Parameters = next
	return set, nil
}

// raise returns what a standby must have more of than it would have.
func (s *Server) raise(ctx context.Context, set Settings) (map[string]string, error) {
	c, err := s.control(ctx, s.o.DataDir)
	if err != nil {
		return nil, err
	}
	user, kept := s.keptUserConf()
	if now, err := s.readUserConf(); err == nil || !kept {
		user = now.text
	}
	raised := map[string]string{}
	for _, name := range standbyLimits {
		least, is := c.limits[name]
		if !is {
			continue
		}
		if have, known := s.limit(ctx, set, user, name); known && have < least {
			raised[name] = strconv.FormatInt(least, 10)
		}
	}
	return raised, nil
}

// limit returns what a start with the settings and this text of the user's would have of a
// limit. PostgreSQL is asked where another file than ours has a say. known is false if
// nobody can tell: then the start itself says what is wrong.
func (s *Server) limit(ctx context.Context, set Settings, user, name string) (have int64, known bool) {
	auto := s.altered(name)
	for key, value := range set.Parameters {
		if n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); strings.EqualFold(key, name) && !auto {
			return n, err == nil
		}
	}
	if !auto && !sets(user, name) {
		return defaultLimits[name], true
	}
	said, err := s.askConf(ctx, set, user, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(said, 10, 64)
	return n, err == nil
}

// sets reports whether a line of a configuration may set a parameter: a comment does not.
func sets(text, parameter string) bool {
	for line := range strings.Lines(text) {
		line = strings.TrimLeft(line, " \t\f\r")
		if len(line) >= len(parameter) && strings.EqualFold(line[:len(parameter)], parameter) {
			return true
		}
	}
	return false
}

// altered reports whether ALTER SYSTEM has set a parameter: that comes after our files.
func (s *Server) altered(name string) bool {
	content, err := s.files.ReadFile(s.data("postgresql.auto.conf"))
	return err == nil && strings.Contains(strings.ToLower(string(content)), name)
}

func (s *Server) setRaised(raised map[string]string) {
	s.mu.Lock()
	s.raised = raised
	s.mu.Unlock()
}

// raisedArguments are the raised limits that ALTER SYSTEM has set lower: only the command
// line comes before it.
func (s *Server) raisedArguments() []string {
	s.mu.Lock()
	raised := s.raised
	s.mu.Unlock()
	var args []string
	for _, name := range slices.Sorted(maps.Keys(raised)) {
		if s.altered(name) {
			args = append(args, "-c", name+"="+raised[name])
		}
	}
	return args
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

// Lacking says, for people, of which limits a running standby has less than its primary,
// so that it replays nothing until it is restarted: Start raises them. Empty: of none.
// have is what it has, in the order of standbyLimits.
func (s *Server) Lacking(ctx context.Context, have []int64) string {
	c, err := s.control(ctx, s.o.DataDir)
	if err != nil || len(have) != len(standbyLimits) {
		return ""
	}
	var less []string
	for i, name := range standbyLimits {
		if least, is := c.limits[name]; is && have[i] < least {
			less = append(less, fmt.Sprintf("%s is %d here and %d on its primary", name, have[i], least))
		}
	}
	return strings.Join(less, ", ")
}

// confTexts are what is read of other people's: the user's own file, and ALTER SYSTEM's.
type confTexts struct{ user, auto string }

// tryStart has PostgreSQL begin a start with the settings, in a folder of its own. It
// ends before it takes memory or opens a port, and by then has loaded the libraries and
// certificates, and counted the memory (from version 15 on). What it refuses is ErrSetting.
func (s *Server) tryStart(ctx context.Context, set Settings, user string) error {
	auto, err := s.readAuto()
	if err != nil {
		return fmt.Errorf("try a start: %w", err)
	}
	return s.tryStartWith(ctx, set, confTexts{user, auto})
}

func (s *Server) tryStartWith(ctx context.Context, set Settings, texts confTexts) error {
	if _, err := s.files.Stat(s.data("global", "pg_control")); errors.Is(err, fs.ErrNotExist) {
		return nil // there is no server yet
	}
	ask := func(parameter string) (string, error) { return s.askTrial(ctx, set, texts, parameter) }
	asked := "shared_memory_size"
	if s.version < 15 {
		asked = "synchronous_commit" // it reads the files, and no more
	}
	needs, err := ask(asked)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %s", ErrSetting, strings.ReplaceAll(err.Error(), s.state("try"), s.o.DataDir))
	case s.version < 15:
		return nil
	}
	return errors.Join(s.checkMemory(needs, ask), s.checkPlaces(texts.user+texts.auto+fmt.Sprint(set.Parameters), ask))
}

// askTrial asks what a parameter would be, of a start in a folder of its own.
func (s *Server) askTrial(ctx context.Context, set Settings, texts confTexts, parameter string) (string, error) {
	control, err := s.files.ReadFile(s.data("global", "pg_control"))
	if err != nil {
		return "", fmt.Errorf("try a start: %w", err)
	}
	s.trial.Lock()
	defer s.trial.Unlock()
	dir := s.state("try")
	defer s.files.RemoveAll(dir)
	if err := s.layTrial(dir, map[string]string{"global/pg_control": string(control),
		autoFile: texts.auto, "user.conf": texts.user, "postgresql.conf": s.render(set, dir+"/user.conf")}); err != nil {
		return "", err
	}
	if err := s.linkTrial(dir); err != nil {
		return "", err
	}
	said, err := s.program(ctx, "postgres", []string{"-C", parameter, "-D", dir, "-c", "config_file=" + dir + "/postgresql.conf", "-c", "data_directory=" + dir,
		"-c", "log_line_prefix=", "-c", "lc_messages=C", "-c", "log_destination=stderr"}, runOptions{})
	return strings.TrimSpace(said), err
}

// linkTrial makes links to what is in the data directory and not PostgreSQL's own: files
// that settings name, such as a certificate, are relative to it.
func (s *Server) linkTrial(dir string) error {
	entries, err := s.files.ReadDir(s.o.DataDir)
	if err != nil {
		return fmt.Errorf("try a start: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		own := strings.HasPrefix(name, "pg_") || strings.HasPrefix(name, "postm") || strings.HasPrefix(name, "PG_") || strings.HasPrefix(name, "postgresql.") ||
			strings.HasSuffix(name, ".signal") || slices.Contains([]string{"base", "global", "lost+found", "backup_label", "tablespace_map"}, name)
		if own {
			continue
		}
		if err := s.files.Symlink(s.data(name), dir+"/"+name); err != nil {
			return fmt.Errorf("try a start: %w", err)
		}
	}
	return nil
}

// checkPlaces refuses what a start would only fail by later: a group that is not there,
// and a folder for the log that cannot be written. text is all that could name either.
func (s *Server) checkPlaces(text string, ask func(string) (string, error)) error {
	if strings.Contains(text, "unix_socket_group") {
		name, err := ask("unix_socket_group")
		if why := parameters.UnknownGroup(name); err == nil && why != "" {
			return fmt.Errorf("%w: unix_socket_group: %s", ErrSetting, why)
		}
	}
	if !strings.Contains(text, "log_directory") {
		return nil
	}
	dir, err := ask("log_directory")
	if collects, err2 := ask("logging_collector"); err != nil || err2 != nil || collects != "on" {
		return nil
	}
	if !filepath.IsAbs(dir) {
		dir = s.data(dir)
	}
	if err := s.mayWriteIn(dir); err != nil {
		return fmt.Errorf("%w: log_directory: %w", ErrSetting, err)
	}
	return nil
}

// mayWriteIn makes a folder, if it is not there, as PostgreSQL would, and a file in it.
func (s *Server) mayWriteIn(dir string) error {
	if err := s.files.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := s.files.CreateTemp(dir, ".pgsidecar.*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), s.files.Remove(f.Name()))
}

// layTrial makes a folder that PostgreSQL takes for a data directory, until it needs more
// of one than these files.
func (s *Server) layTrial(dir string, files map[string]string) error {
	if err := s.files.RemoveAll(dir); err != nil { // of a process that was killed
		return fmt.Errorf("try a start: %w", err)
	}
	if err := errors.Join(s.makeDir(dir), s.makeDir(dir+"/global")); err != nil {
		return err
	}
	files["PG_VERSION"] = strconv.Itoa(s.version) + "\n"
	for name, content := range files {
		path := dir + "/" + name
		if err := s.files.Replace(path, []byte(content)); err != nil {
			return noSpace(err)
		}
	}
	return nil
}

// checkMemory refuses a start that needs more memory, or huge pages, than the machine has.
func (s *Server) checkMemory(needs string, ask func(string) (string, error)) error {
	has := meminfo()
	megabytes, err := strconv.ParseInt(needs, 10, 64)
	if total := has["MemTotal"] >> 10; err == nil && total > 0 && megabytes > total {
		return fmt.Errorf("%w: the server would need %d MB of shared memory, and this machine has %d MB; see shared_buffers", ErrSetting, megabytes, total)
	}
	if huge, err := ask("huge_pages"); err != nil || huge != "on" {
		return err
	}
	pages, err := ask("shared_memory_size_in_huge_pages")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetting, err)
	}
	if n, err := strconv.ParseInt(pages, 10, 64); err == nil && n > has["HugePages_Total"] {
		return fmt.Errorf("%w: with huge_pages = on the server needs %d huge pages, and this machine has %d; see vm.nr_hugepages", ErrSetting, n, has["HugePages_Total"])
	}
	return nil
}

// meminfo reads what the kernel says of the machine's memory: kilobytes, and pages.
func meminfo() map[string]int64 {
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil // then nothing is refused for it
	}
	has := map[string]int64{}
	for line := range strings.Lines(string(content)) {
		name, rest, _ := strings.Cut(line, ":")
		if words := strings.Fields(rest); len(words) > 0 {
			has[name], _ = strconv.ParseInt(words[0], 10, 64) // zero: not known
		}
	}
	return has
}
