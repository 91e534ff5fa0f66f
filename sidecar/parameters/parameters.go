// Package parameters judges the parameters that are given to PostgreSQL: in pg.hcl, by
// `run`, by `config validate`, and in the cluster-wide settings. All of them ask here, so
// what one refuses all refuse, with the same words.
//
// Check has the rules of pgsidecar itself: what it sets, and what a cluster cannot live
// with. Judge asks PostgreSQL's own program, of the version that is to run them: whether
// it knows the name, takes the value, and has the library. Its program answers without a
// data directory and beside a running server, so a file can be judged before anything
// exists; what it said is kept for as long as the program is the same file. What cannot
// be asked there, such as whether there is enough memory, is tried on each member
// (postgres.Server's Try).
package parameters

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var (
	// ErrOwned: pgsidecar sets the parameter itself.
	ErrOwned = errors.New("set by pgsidecar itself")
	// ErrValue: the parameter must not have this value, or has no such name.
	ErrValue = errors.New("the configuration is not valid")
)

// refusal is an error that reads as its text and is of a kind.
type refusal struct {
	kind error
	text string
}

func (r refusal) Error() string        { return r.text }
func (r refusal) Is(target error) bool { return target == r.kind }

func refuse(kind error, name, format string, args ...any) error {
	return refusal{kind, "parameter " + name + ": " + fmt.Sprintf(format, args...)}
}

// owned are the parameters that pgsidecar sets itself, each with where its value comes
// from.
var owned = map[string]string{
	"allow_alter_system":        "a member is promoted and fenced by it, so it is on",
	"cluster_name":              "it is the member's name, by which the primary knows it",
	"config_file":               "it is pgsidecar's own file",
	"data_directory":            "it comes from postgres data_dir",
	"hba_file":                  "it is pgsidecar's own file; its lines come from postgres hba",
	"hot_standby":               "members are looked at by SQL, so it is on",
	"ident_file":                "it is pgsidecar's own file; its lines come from postgres ident",
	"listen_addresses":          "it comes from postgres listen",
	"port":                      "it comes from postgres listen",
	"primary_conninfo":          "it follows the primary",
	"primary_slot_name":         "it follows the member's name",
	"promote_trigger_file":      "only pgsidecar promotes",
	"restart_after_crash":       "a crash must be seen, so that the cluster can answer it; it is off",
	"restore_command":           "a voter must be able to stop what it receives; replicas stream, and are cloned where that is not enough",
	"synchronous_standby_names": "it follows the cluster's voters; see durability",
	"wal_log_hints":             "pg_rewind needs it, so it is on",
	"wal_receiver_timeout":      "it comes from failover failure_timeout",
}

// Owned says where the value of a parameter comes from that pgsidecar sets itself;
// empty: it may be given.
func Owned(name string) string {
	name = strings.ToLower(name)
	if strings.HasPrefix(name, "recovery_target") {
		return "a member recovers to the end of the latest timeline"
	}
	return owned[name]
}

// pattern is what a parameter may be called (PostgreSQL's guc-file.l).
var pattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*$`)

var offWords = []string{"off", "false", "no", "0", "f", "n", "of", "fa", "fal", "fals"}

// Check returns why a parameter must not have a value; durable: commits are acknowledged
// when standbys have flushed them. It knows nothing of versions.
func Check(name, value string, durable bool) error {
	key, word := strings.ToLower(name), strings.ToLower(strings.TrimSpace(value))
	off := slices.Contains(offWords, word)
	invalid := func(why string) error { return refuse(ErrValue, name, "%s", why) }
	switch {
	case !pattern.MatchString(name):
		return invalid("expected a name of letters, digits and underscores, such as work_mem")
	case Owned(key) != "":
		return refuse(ErrOwned, name, "%s: %s", ErrOwned.Error(), Owned(key))
	case strings.ContainsAny(value, "\n\r\x00"):
		return invalid("a line break in the value")
	case key == "fsync" && off:
		return refuse(ErrOwned, name, "a crash would leave a member that nobody may follow; expected on")
	case key == "full_page_writes" && off:
		return refuse(ErrOwned, name, "pg_rewind needs it; expected on")
	case key == "data_sync_retry" && value != "" && !off:
		return invalid("a write that failed could be taken for one that reached the disk; expected off")
	case key == "wal_level" && word != "replica" && word != "logical":
		return invalid(`replicas need more; expected "replica" or "logical"`)
	case key == "max_wal_senders" && word == "0":
		return invalid("replicas need some; expected 2 for each member")
	case key == "max_replication_slots" && word == "0":
		return invalid("each other member needs one; expected 1 for each, and those of other programs")
	case key == "synchronous_commit" && durable && (off || word == "local" || word == "remote_write"):
		return invalid(`mode "quorum" promises that standbys have flushed each acknowledged commit; expected on, or mode = "async"`)
	case key == SocketDirectories:
		return checkSockets(name, value, "")
	}
	return nil
}

// SocketDirectories is where the server's sockets are, beside pgsidecar's own.
const SocketDirectories = "unix_socket_directories"

// CheckSockets refuses directories for sockets that are in the data directory: pg_rewind
// cannot read a socket of its source, so each member that comes back would be cloned.
func CheckSockets(set map[string]string, dataDir string) error {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if strings.EqualFold(name, SocketDirectories) {
			return checkSockets(name, set[name], dataDir)
		}
	}
	return nil
}

func checkSockets(name, value, dataDir string) error {
	if strings.TrimSpace(value) == "" {
		return nil // pgsidecar's own alone
	}
	for _, dir := range strings.Split(value, ",") {
		dir = strings.Trim(dir, " \t\"")
		within, err := filepath.Rel(dataDir, filepath.Clean(dir))
		switch {
		case dir == "":
			return refuse(ErrValue, name, "an empty name in the list; expected directories with commas between them")
		case dir[0] != '/' && dir[0] != '@', // the server's working directory is the data directory
			dir[0] == '/' && dataDir != "" && err == nil && within != ".." && !strings.HasPrefix(within, "../"):
			return refuse(ErrValue, name, "%s is in the data directory, and pg_rewind cannot read sockets there; expected another directory, such as /var/run/postgresql", dir)
		}
	}
	return nil
}

// CheckAll returns the first that Check refuses, in the order of the names, a parameter that
// is given twice, in letters of another case, or counts that do not go together.
func CheckAll(set map[string]string, durable bool) error {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if err := Check(name, set[name], durable); err != nil {
			return err
		}
		if other, twice := seen[strings.ToLower(name)]; twice {
			return refuse(ErrValue, name, "it is given twice, as %s too; expected it once", other)
		}
		seen[strings.ToLower(name)] = name
	}
	return reserved(set)
}
