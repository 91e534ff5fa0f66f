package pgbackrest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
)

// Config says where the repository is, and which server is backed up.
type Config struct {
	Program string // default: pgbackrest, on PATH
	Stanza  string // the cluster's name in the repository
	Dir     string // absolute; for configuration, spool, locks and log
	User    program.User

	Server  Server
	Primary *Server // where Server is a replica that backups are made from

	Repository Repository
	Retention  backup.Retention // Full or Window, not both
	Processes  int              // 0: 1
	Compress   string           // gz, lz4, zst, bz2 or none; empty: lz4
	// SegmentSize of the server's log, in bytes; 0: 16 MiB.
	SegmentSize int64
	// ArchiveTimeout is how long Check and Backup wait for log to arrive; 0: 60 s.
	ArchiveTimeout time.Duration
}

// Server is a PostgreSQL server as pgBackRest reaches it.
type Server struct {
	DataDir string
	Socket  string // directory of its socket
	Port    int
	User    string // a superuser
	// Options are further ones without their prefix, such as host and host-type.
	Options map[string]string
}

// Repository is where backups and log are kept.
type Repository struct {
	Type string // posix, s3, azure, gcs, sftp, cifs; empty: posix
	Path string // absolute
	// KeyFile has the passphrase; empty: nothing is encrypted.
	KeyFile string
	// Options are further ones without their prefix, such as s3-bucket or host.
	Options map[string]string
	// Secrets are options whose values are the contents of files.
	Secrets map[string]string
}

var (
	stanzaName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	optionName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	// secretName is what pgBackRest itself hides in its log.
	secretName = regexp.MustCompile(`(^|-)(pass|passphrase|secret|token|key)$`)
	ownName    = regexp.MustCompile(`^(type$|path$|cipher-|retention-|bundle)`)
)

var (
	types        = []string{"posix", "s3", "azure", "gcs", "sftp", "cifs"}
	compressions = []string{"gz", "lz4", "zst", "bz2", "none"}
)

// Validate returns all that is wrong, each an ErrSetting. It reads no file.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: "+format, append([]any{backup.ErrSetting}, args...)...))
	}
	if !stanzaName.MatchString(c.Stanza) {
		fault("stanza %q; expected letters, digits, dots, dashes and underscores", c.Stanza)
	}
	for _, p := range []struct{ what, path string }{{"directory", c.Dir}, {"data directory", c.Server.DataDir}, {"repository's path", c.Repository.Path}} {
		if !filepath.IsAbs(p.path) || strings.ContainsAny(p.path, "\r\n") {
			fault("%s %q; expected an absolute path", p.what, p.path)
		}
	}
	if c.Repository.Type != "" && !slices.Contains(types, c.Repository.Type) {
		fault("repository type %q; expected %s", c.Repository.Type, strings.Join(types, ", "))
	}
	if c.Compress != "" && !slices.Contains(compressions, c.Compress) {
		fault("compression %q; expected %s", c.Compress, strings.Join(compressions, ", "))
	}
	if c.Retention.Full > 0 && c.Retention.Window > 0 {
		fault("pgBackRest keeps a number of full backups or a time, not both")
	}
	if c.Retention.Window%(24*time.Hour) != 0 {
		fault("pgBackRest keeps whole days, and the time is %s", c.Retention.Window)
	}
	servers := []Server{c.Server}
	if c.Primary != nil {
		servers = append(servers, *c.Primary)
	}
	for _, s := range servers {
		faults = append(faults, options("server", s.Options, regexp.MustCompile(`^(path|port|socket-path|user)$`))...)
	}
	faults = append(faults, options("repository", c.Repository.Options, ownName)...)
	for _, name := range slices.Sorted(maps.Keys(c.Repository.Secrets)) {
		if !optionName.MatchString(name) || ownName.MatchString(name) {
			fault("repository option %q must not be set here", name)
		}
	}
	return errors.Join(faults...)
}

// options checks names and values: a line's end in one would begin another option.
func options(of string, set map[string]string, own *regexp.Regexp) []error {
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(set)) {
		switch value := set[name]; {
		case !optionName.MatchString(name) || own.MatchString(name):
			faults = append(faults, fmt.Errorf("%w: %s option %q must not be set here", backup.ErrSetting, of, name))
		case secretName.MatchString(name):
			faults = append(faults, fmt.Errorf("%w: %s option %q is a secret; expected the file that has it", backup.ErrSetting, of, name))
		case strings.ContainsAny(value, "\r\n") || strings.TrimSpace(value) != value || value == "":
			faults = append(faults, fmt.Errorf("%w: %s option %q; expected one line, without blanks around it", backup.ErrSetting, of, name))
		}
	}
	return faults
}

// section collects the lines of a file of options.
type section struct{ bytes.Buffer }

func (s *section) add(name, value string) {
	if value != "" {
		fmt.Fprintf(s, "%s=%s\n", name, value)
	}
}

func (s *section) addAll(prefix string, set map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		s.add(prefix+name, set[name])
	}
}

// render writes the configuration without secrets.
func (c Config) render() []byte {
	var s section
	s.WriteString("# Written by pgsidecar; changes are lost.\n[global]\n")
	s.add("repo1-type", c.Repository.Type)
	s.add("repo1-path", c.Repository.Path)
	if c.Repository.KeyFile != "" {
		s.add("repo1-cipher-type", "aes-256-cbc")
	}
	by, keep := "count", 9999999 // for ever; without a number pgBackRest warns each time
	switch {
	case c.Retention.Window > 0:
		by, keep = "time", int(c.Retention.Window/(24*time.Hour))
	case c.Retention.Full > 0:
		keep = c.Retention.Full
	}
	s.add("repo1-retention-full-type", by)
	s.add("repo1-retention-full", strconv.Itoa(keep))
	s.addAll("repo1-", c.Repository.Options)
	s.add("spool-path", filepath.Join(c.Dir, "spool"))
	s.add("lock-path", filepath.Join(c.Dir, "lock"))
	s.add("log-path", filepath.Join(c.Dir, "log"))
	s.add("log-level-file", "warn")
	s.add("log-level-console", "off")
	s.add("log-level-stderr", "warn")
	s.add("log-timestamp", "n")
	s.add("archive-async", "y")
	s.add("start-fast", "y")
	s.add("expire-auto", "n") // Expire does, and says what went
	s.add("process-max", strconv.Itoa(max(1, c.Processes)))
	if compress := c.Compress; compress != "" {
		s.add("compress-type", compress)
	} else {
		s.add("compress-type", "lz4")
	}
	if c.ArchiveTimeout > 0 {
		s.add("archive-timeout", strconv.Itoa(max(1, int(math.Ceil(c.ArchiveTimeout.Seconds())))))
	}
	fmt.Fprintf(&s, "\n[%s]\n", c.Stanza)
	s.server("pg1-", c.Server)
	if c.Primary != nil {
		s.server("pg2-", *c.Primary)
		s.add("backup-standby", "y")
	}
	return s.Bytes()
}

func (s *section) server(prefix string, v Server) {
	s.add(prefix+"path", v.DataDir)
	if v.Port != 0 {
		s.add(prefix+"port", strconv.Itoa(v.Port))
	}
	s.add(prefix+"socket-path", v.Socket)
	s.add(prefix+"user", v.User)
	s.addAll(prefix, v.Options)
}

// renderSecrets writes the configuration of what the files hold now.
func (c Config) renderSecrets() ([]byte, error) {
	files := map[string]string{}
	maps.Copy(files, c.Repository.Secrets)
	if c.Repository.KeyFile != "" {
		files["cipher-pass"] = c.Repository.KeyFile
	}
	var s section
	s.WriteString("# Written by pgsidecar; changes are lost.\n[global]\n")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content, err := os.ReadFile(files[name])
		if err != nil {
			return nil, fmt.Errorf("read the repository's %s: %w", name, err)
		}
		value := strings.TrimRight(string(content), "\r\n")
		if value == "" || strings.ContainsAny(value, "\r\n") || strings.TrimSpace(value) != value {
			return nil, fmt.Errorf("%w: %s for the repository's %s; expected one line, without blanks around it", backup.ErrSetting, files[name], name)
		}
		s.add("repo1-"+name, value)
	}
	return s.Bytes(), nil
}

func (c Config) file() string    { return filepath.Join(c.Dir, "pgbackrest.conf") }
func (c Config) include() string { return filepath.Join(c.Dir, "conf.d") }

// write brings both files to disk if they are not as they should be.
func (c Config) write() error {
	secrets, err := c.renderSecrets()
	if err != nil {
		return err
	}
	for _, dir := range []string{"", "conf.d", "spool", "lock", "log"} {
		path := filepath.Join(c.Dir, dir)
		if err := c.User.Files().MakeDir(path); err != nil {
			return fmt.Errorf("make pgBackRest's folder: %w", err)
		}
	}
	if err := c.replace(filepath.Join(c.include(), "secrets.conf"), secrets); err != nil {
		return err
	}
	return c.replace(c.file(), c.render())
}

// replace writes a file whole, and only if its content differs.
func (c Config) replace(path string, content []byte) error {
	if old, err := c.User.Files().ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err := c.User.Files().ReplaceSync(path, content); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
