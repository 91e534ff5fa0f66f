package programs

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrVersion is returned for a program that does not say which version it is.
var ErrVersion = errors.New("its version is not known")

// ConsulDialect is how one version of Consul's agent is told what a lab or a test
// wants of any: an agent refuses a configuration with a name that it does not know.
type ConsulDialect struct{ Major, Minor int }

// versionTimeout is for a machine with much other work: seen to take above 10 s there.
const versionTimeout = time.Minute

// asked are the programs whose version is known.
var asked = struct {
	sync.Mutex
	dialects map[string]ConsulDialect
}{dialects: map[string]ConsulDialect{}}

// DialectOf asks a Consul for its version, once in this process. It fails with
// ErrVersion.
func DialectOf(consul string) (ConsulDialect, error) {
	asked.Lock()
	defer asked.Unlock()
	if d, known := asked.dialects[consul]; known {
		return d, nil
	}
	d, err := ask(consul)
	if err == nil {
		asked.dialects[consul] = d
	}
	return d, err
}

func ask(consul string) (ConsulDialect, error) {
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, consul, "version").Output()
	if err != nil {
		return ConsulDialect{}, fmt.Errorf("%s version: %w: %w", consul, ErrVersion, err)
	}
	return parseDialect(string(out))
}

func parseDialect(text string) (ConsulDialect, error) {
	first, _, _ := strings.Cut(text, "\n")
	numbers := strings.SplitN(strings.TrimPrefix(first, "Consul v"), ".", 3)
	if len(numbers) == 3 {
		major, err := strconv.Atoi(numbers[0])
		minor, err2 := strconv.Atoi(numbers[1])
		if err == nil && err2 == nil {
			return ConsulDialect{Major: major, Minor: minor}, nil
		}
	}
	return ConsulDialect{}, fmt.Errorf("consul says %q: %w", first, ErrVersion)
}

func (d ConsulDialect) since(minor int) bool { return d.Major > 1 || d.Minor >= minor }

// WithoutGRPC are the ports that nobody here uses, switched off.
func (d ConsulDialect) WithoutGRPC() map[string]int {
	off := map[string]int{"grpc": -1}
	if d.since(14) {
		off["grpc_tls"] = -1
	}
	return off
}

// FlagsWithoutGRPC are the same as flags of `consul agent`.
func (d ConsulDialect) FlagsWithoutGRPC() []string {
	flags := []string{"-grpc-port=-1"}
	if d.since(14) {
		flags = append(flags, "-grpc-tls-port=-1")
	}
	return flags
}

// ManagementToken names the token, in acl { tokens }, by which the first policies are
// made.
func (d ConsulDialect) ManagementToken() string {
	if d.since(11) {
		return "initial_management"
	}
	return "master"
}

// TellsOfFiltered reports whether Consul says so when it leaves out of an answer what a
// token may not read (X-Consul-Results-Filtered-By-ACLs).
func (d ConsulDialect) TellsOfFiltered() bool { return d.since(11) }

// TLS returns the agent's configuration, in HCL, for certificates in these files; more
// are further settings of the same block.
func (d ConsulDialect) TLS(ca, cert, key, more string) string {
	files := fmt.Sprintf("ca_file = %q\ncert_file = %q\nkey_file = %q\n%s\n", ca, cert, key, more)
	if d.since(12) {
		return "tls { defaults {\n" + files + "} }\n"
	}
	return files
}
