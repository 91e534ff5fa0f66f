package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// Guard is the parent of the postmaster.
type Guard interface {
	// Start begins the postmaster; it returns when it was started, not when it
	// is ready.
	Start(ctx context.Context, cmd Command) error
	// Stop ends it: a fast shutdown, or an immediate one and SIGKILL for what
	// is left. It returns when it and all its children are gone.
	Stop(ctx context.Context, immediate bool) error
	// Signal sends the postmaster a signal.
	Signal(ctx context.Context, sig int) error
}

// Command is how the postmaster is started.
type Command struct {
	Path     string   // of the program postgres
	Args     []string // without the program's own name
	Env      []string // the whole environment; nothing is inherited
	Dir      string   // the data directory
	UID, GID uint32
	LogFile  string // takes standard output and error
}

// Source is another member's server.
type Source struct {
	Member string
	// Term is the term in which it led, or was led, when it was chosen; zero: not known.
	Term uint64
	Host string
	Port int
	// Owed is what the leader had when the clone of another member began: the copy
	// owes that much log before its server counts as one that holds the commits.
	// Unknown: the source is the leader.
	Owed ha.Position
	// Spaces are the directories of the source's tablespaces, which a copy has at the
	// same places.
	Spaces []string
	// Major is its version of PostgreSQL; zero: not known.
	Major int
	// Backup is what the copy is made from in its place; nil: the source sends it.
	Backup *Backup
}

// Secret reads a password. It is called anew each time, so that a changed file
// is taken up.
type Secret func() (string, error)

// Options describe the server. Those without a default must be given.
type Options struct {
	Member   string // also the server's cluster_name
	BinDir   string // of PostgreSQL's server programs
	DataDir  string // absolute
	StateDir string // absolute; default: DataDir + ".pgsidecar"
	User     string // operating system user; default: this process's own, postgres for root

	Listen    string // host:port of the server; an empty host is all addresses
	Advertise string // host:port for the other members; default: Listen

	SuperuserName       string // default: postgres
	SuperuserPassword   Secret
	ReplicationName     string // default: replicator
	ReplicationPassword Secret

	Parameters map[string]string // the user's; ErrOwned for those that must be ours
	HBA        []string          // lines instead of those of the data directory's pg_hba.conf
	Ident      []string          // lines instead of those of the data directory's pg_ident.conf

	// TLS of the server, and between members.
	TLS TLS

	// WALReceiverTimeout is after how long a silent upstream counts as lost;
	// default 2 s, the failure timeout.
	WALReceiverTimeout time.Duration

	WAL WAL

	// KeepDiverged bounds what is kept aside (S7): default 5 times, 1 GiB each.
	KeepDiverged Keep

	Guard  Guard
	Logger hclog.Logger
}

// WAL is how the server's log is kept, and how new data are made.
type WAL struct {
	// Dir is where pg_wal of new data is, absolute and ours alone; empty: in the data
	// directory. Data that are there keep theirs.
	Dir string
	// SegmentMB is the size of a new server's segments, a power of two up
	// to 1024; 0: PostgreSQL's own 16. A promotion writes and syncs a whole one,
	// so smaller ones make it shorter.
	SegmentMB int
	// Initdb are further arguments of initdb, for a new server; nil: UTF8, with checksums.
	// Without --data-checksums there are none, whatever the version's default is.
	Initdb []string
	// BaseBackup are further arguments of pg_basebackup.
	BaseBackup []string
	// ArchiveCommand is PostgreSQL's; empty: archiving is as the user's files and
	// parameters say.
	ArchiveCommand string
	// RestoreCommand fetches what ArchiveCommand has archived; empty: nothing does.
	RestoreCommand string
	// Environment are variables, as NAME=VALUE, for these commands (Inherited). The server
	// and all of its programs get them.
	Environment []string
}

// TLS names the files of the server's certificate; CertFile empty: what the
// parameters say holds.
type TLS struct {
	CertFile, KeyFile string
	CAFile            string // of the members' certificates, and of clients'
	// Require: between members only TLS is used, and the certificate must have
	// the host by which a member is reached.
	Require bool
}

// Conninfo are the libpq options of connections between members.
func (t TLS) Conninfo() [][2]string {
	if !t.Require {
		return nil
	}
	return [][2]string{{"sslmode", "verify-full"}, {"sslrootcert", t.CAFile}}
}

// Keep bounds what diverged and is kept aside.
type Keep struct {
	Count int   // the oldest beyond are removed
	Bytes int64 // of WAL, each time; the first after the fork are kept
}

// Server is one local PostgreSQL server. Its methods that change something are
// for one caller at a time; Inspect, History and the names may be called beside.
type Server struct {
	o   Options
	log hclog.Logger
	account
	version int // major version of the programs
	sock    string
	guard   Guard
	known
	mu       sync.Mutex // holds hidden, the settings, and the gate to the archive
	hidden   bool
	settings Settings
	problem  string            // ConfigProblem; guarded by mu
	tried    string            // the user's own file, as last tried; guarded by mu
	rules    rules             // of access, that PostgreSQL does not take; guarded by mu
	waits    waits             // CancelledWaits'
	raised   map[string]string // what a standby has more of than the settings say; guarded by mu
	starts   starts            // what trials of one said; guarded by mu
	trial    sync.Mutex        // held while tryStart has its folder
	reach    reach             // of the source of a copy or rewind
	marks    marks
	onlyTests
}

// known is what was found out, and is not asked again.
type known struct {
	controls controlCache
	answers  confAnswers
}

// account is whom the server and its programs run as.
type account struct {
	uid, gid uint32
	home     string
	switchID bool        // this process is root and starts programs as uid
	files    rights.User // for all that is done to files in the data and state directories
}

// onlyTests is what tests alone set.
type onlyTests struct {
	stepped  func(string) error // called between the steps of a change
	patience time.Duration      // with programs that stand still
}

// Settings are what Reload may change while the server runs.
type Settings struct {
	Parameters map[string]string
	HBA, Ident []string
	// Durable: commits are to be acknowledged when standbys have flushed them, so
	// what is weaker than synchronous_commit = on is set to that, unless ALTER SYSTEM
	// says it of a running server.
	Durable bool

	enforce     bool   // synchronous_commit is weaker, and Durable
	destination string // log_destination, where theirs cannot be read here; empty: it can
	// recovery are the settings of a recovery that PostgreSQL was told to do; nil: it is
	// to do none.
	recovery map[string]string
}

// Major is the major version of the server's programs.
func (s *Server) Major() int { return s.version }

// New checks the options and finds the programs. It starts nothing, and makes
// nothing but the state directory's name.
func New(o Options) (*Server, error) {
	setDefaults(&o)
	s := &Server{o: o, guard: o.Guard, log: o.Logger,
		settings: Settings{Parameters: o.Parameters, HBA: o.HBA, Ident: o.Ident}}
	if err := s.checkOptions(); err != nil {
		return nil, err
	}
	if err := s.findUser(); err != nil {
		return nil, err
	}
	version, err := programVersion(filepath.Join(o.BinDir, "postgres"))
	if err != nil {
		return nil, err
	}
	if err := checkVersion(version, o.BinDir); err != nil {
		return nil, err
	}
	s.version = version
	s.sock = socketDir(o.StateDir)
	if err := s.checkInitdb(); err != nil {
		return nil, err
	}
	return s, nil
}

func setDefaults(o *Options) {
	if o.StateDir == "" && o.DataDir != "" {
		o.StateDir = filepath.Clean(o.DataDir) + ".pgsidecar"
	}
	if o.Advertise == "" {
		o.Advertise = o.Listen
	}
	if o.SuperuserName == "" {
		o.SuperuserName = "postgres"
	}
	if o.ReplicationName == "" {
		o.ReplicationName = "replicator"
	}
	if o.WAL.Initdb == nil {
		o.WAL.Initdb = []string{"--encoding=UTF8", "--data-checksums"}
	}
	if o.WALReceiverTimeout == 0 {
		o.WALReceiverTimeout = 2 * time.Second // the default failure timeout
	}
	if o.KeepDiverged.Count == 0 {
		o.KeepDiverged.Count = 5 // several failovers in a row, and still the first
	}
	if o.KeepDiverged.Bytes == 0 {
		o.KeepDiverged.Bytes = 1 << 30 // 64 segments of the usual size
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
}

func (s *Server) checkOptions() error {
	o := s.o
	switch {
	case !validMember(o.Member):
		return fmt.Errorf("member name %q: up to 56 letters, digits, '.', '-' and '_' are allowed", o.Member)
	case !filepath.IsAbs(o.DataDir):
		return fmt.Errorf("data directory %q is not an absolute path", o.DataDir)
	case !filepath.IsAbs(o.StateDir):
		return fmt.Errorf("state directory %q is not an absolute path", o.StateDir)
	case within(o.DataDir, o.StateDir):
		return fmt.Errorf("state directory %s lies in the data directory, where a rewind would remove it", o.StateDir)
	case strings.ContainsAny(o.DataDir+o.StateDir, "'\n"):
		return errors.New("a directory's name has a quote or a line break")
	case o.WAL.SegmentMB < 0 || o.WAL.SegmentMB > 1024 || o.WAL.SegmentMB&(o.WAL.SegmentMB-1) != 0:
		return fmt.Errorf("WAL segments of %d MB: a power of two up to 1024 is needed", o.WAL.SegmentMB)
	case o.Guard == nil:
		return errors.New("no guard to start the server")
	}
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		return fmt.Errorf("listen address %q is not host:port: %w", o.Listen, err)
	}
	return checkSettings(s.settings)
}

// validMember limits names to what is plain in a service file, a slot name, an
// application name and a file name.
func validMember(name string) bool {
	for _, r := range name {
		plain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_", r)
		if !plain {
			return false
		}
	}
	return name != "" && len(name) <= 56
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// findUser finds out as whom the server's programs run. PostgreSQL refuses to
// run as root.
func (s *Server) findUser() error {
	name, root := s.o.User, os.Geteuid() == 0
	if name == "" && root {
		name = "postgres"
	}
	u, err := user.Current()
	if name != "" {
		u, err = user.Lookup(name)
	}
	if err != nil {
		return fmt.Errorf("look up the server's user: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return fmt.Errorf("user id of %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return fmt.Errorf("group id of %s: %w", u.Username, err)
	}
	switch {
	case uid == 0:
		return errors.New("PostgreSQL does not run as root: name another user")
	case !root && int(uid) != os.Geteuid():
		return fmt.Errorf("only root can run the server as user %s", u.Username)
	}
	s.uid, s.gid, s.home, s.o.User, s.switchID = uint32(uid), uint32(gid), u.HomeDir, u.Username, root
	s.files = rights.Of(s.uid, s.gid)
	return nil
}

// maxSocketDir is what is left of the 107 bytes of a socket's path after
// "/.s.PGSQL.65535.lock".
const maxSocketDir = 107 - 20

// socketDir returns a directory whose path is short enough for a socket.
func socketDir(stateDir string) string {
	dir := filepath.Join(stateDir, "sock")
	if len(dir) <= maxSocketDir {
		return dir
	}
	sum := sha256.Sum256([]byte(stateDir))
	return fmt.Sprintf("/tmp/.pgsidecar-%x", sum[:6])
}

// SocketDir is the directory of the server's socket.
func (s *Server) SocketDir() string { return s.sock }

// Port is the server's port.
func (s *Server) Port() int {
	_, port, _ := net.SplitHostPort(s.o.Listen) // checked by New
	n, _ := strconv.Atoi(port)
	return n
}

// Passfile is the file that holds the replication password, for libpq.
func (s *Server) Passfile() string { return filepath.Join(s.o.StateDir, "passfile") }

// StateDir is the directory for our own files.
func (s *Server) StateDir() string { return s.o.StateDir }

// Service is the service that a connection to the upstream must name to get
// through the gate.
func Service(member string) string { return "pgsidecar:" + member }

func (s *Server) data(elem ...string) string {
	return filepath.Join(append([]string{s.o.DataDir}, elem...)...)
}

func (s *Server) state(elem ...string) string {
	return filepath.Join(append([]string{s.o.StateDir}, elem...)...)
}

// step is called between the steps of a change to the data directory; a test
// ends the process there.
func (s *Server) step(name string) error {
	if s.stepped == nil {
		return nil
	}
	return s.stepped(name)
}
