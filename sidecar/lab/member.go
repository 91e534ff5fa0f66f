package lab

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"

	"golang.org/x/sys/unix"
)

// The names of the secrets' files, and of the roles that they are for.
const (
	SuperuserRole   = "postgres"
	ReplicationRole = "replicator"
	ApplicationRole = "drill" // an ordinary role, as an application has one
)

// PasswordFile returns the path of the file with a role's password.
func (p *Plan) PasswordFile(role string) string { return filepath.Join(p.Dir, "secrets", role) }

// writeSecrets makes a password for each role, and the tokens.
func (l *Lab) writeSecrets() error {
	if err := os.MkdirAll(filepath.Join(l.plan.Dir, "secrets"), 0o755); err != nil {
		return fmt.Errorf("make the folder of the secrets: %w", err)
	}
	for _, role := range []string{SuperuserRole, ReplicationRole, ApplicationRole, apiToken} {
		if other := l.plan.Other; other != nil { // the data, and so the roles' passwords, are the other site's
			secret, err := os.ReadFile((&Plan{Dir: other.Dir}).PasswordFile(role))
			if err != nil {
				return fmt.Errorf("read a secret of the other site: %w", err)
			}
			if err := l.writeSecret(role, strings.TrimSpace(string(secret))); err != nil {
				return err
			}
			continue
		}
		b := make([]byte, 16)
		if _, err := rand.Read(b); err != nil {
			return fmt.Errorf("make a password: %w", err)
		}
		if err := l.writeSecret(role, hex.EncodeToString(b)); err != nil {
			return err
		}
	}
	if !l.plan.Breakable {
		return nil
	}
	for _, name := range []string{managementToken, memberToken, readerToken} {
		token, err := newUUID()
		if err != nil {
			return err
		}
		if err := l.writeSecret(name, token); err != nil {
			return err
		}
	}
	return nil
}

// writeSecret writes a secret for PostgreSQL's user.
func (l *Lab) writeSecret(name, secret string) error {
	path := l.plan.PasswordFile(name)
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		return fmt.Errorf("write a secret: %w", err)
	}
	return l.own(path)
}

// The parameters keep what PostgreSQL makes outside of its data directory
// small: shared memory segments that a killed server leaves would outlive the
// lab, so dynamic ones are files in the data directory.
var memberTemplate = template.Must(template.New("pg.hcl").Funcs(template.FuncMap{"q": strconv.Quote}).Parse(
	`cluster = {{q .Plan.Cluster}}
member  = {{q .Host.Name}}

consul {
  address = [{{range $i, $a := .Consul}}{{if $i}}, {{end}}{{q $a}}{{end}}]
  prefix  = {{q .Plan.Prefix}}
{{- if .ConsulToken}}
  token_file = {{q .ConsulToken}}
{{- end}}
}

service {
  name = {{q .Plan.Cluster}}
}

postgres {
  bin_dir   = {{q .Plan.PostgresBin}}
  data_dir  = {{q .Host.DataDir}}
{{- if .Plan.User}}
  user      = {{q .Plan.User}}
{{- end}}
  listen    = {{q .Host.PostgresAddress}}
  advertise = {{q .Host.PostgresAddress}}

  superuser {
    name          = {{q .Superuser}}
    password_file = {{q (.Plan.PasswordFile .Superuser)}}
  }

  replication {
    name          = {{q .Replication}}
    password_file = {{q (.Plan.PasswordFile .Replication)}}
  }

  parameters = {
    shared_buffers             = "16MB"
    max_connections            = "100"
    dynamic_shared_memory_type = "mmap"
{{- if .Archive}}
    archive_mode               = "on"
    archive_command            = {{q .Archive}}
{{- end}}
  }

  hba = [{{q .HBA}}]
}

api {
  listen     = {{q .Host.APIAddress}}
  token_file = {{q .Plan.APITokenFile}}
  drills     = true
}

durability {
  mode     = {{q .Plan.Mode}}
{{- if eq .Plan.Mode "quorum"}}
  standbys = {{.Plan.Standbys}}
{{- end}}
}

failover {
  automatic = true
}
{{- with .Traces}}

trace {
  endpoint = {{q .}}
}
{{- end}}
{{- if .Plan.WALSegmentMB}}

bootstrap {
  initdb {
    wal_segment_mb = {{.Plan.WALSegmentMB}}
  }
}
{{- end}}
{{- with .Plan.Other}}

standby_of {
{{- if .Service}}
  service    = {{q .Service}}
  datacenter = {{q .Datacenter}}
{{- if .Witness}}
  witness    = {{q .Witness}}
{{- end}}
{{- else}}
  addresses = [{{range $i, $a := .Addresses}}{{if $i}}, {{end}}{{q $a}}{{end}}]
  apis      = [{{range $i, $a := .APIs}}{{if $i}}, {{end}}{{q $a}}{{end}}]
{{- end}}
}
{{- end}}
{{- if .Plan.Backup}}

backup "main" {
  engine = "pgbackrest"

  repository {
    path = {{q .Plan.RepositoryDir}}
  }

  retention {
    full = 2
  }
}
{{- end}}
`))

// hba lets the application in by password, from anywhere in the lab.
func (p *Plan) hba() string {
	if p.Isolated {
		return "host all all 10.213.0.0/16 scram-sha-256"
	}
	return "host all all 127.0.0.1/32 scram-sha-256"
}

// consulAddresses are the host's own agent, then the servers.
func (p *Plan) consulAddresses(h Host) []string {
	addresses := []string{h.HTTPAddress()}
	for _, s := range p.Servers() {
		addresses = append(addresses, s.HTTPAddress())
	}
	return addresses
}

// writeMemberConfig writes pg.hcl (or what an Agent needs), and makes the folder in which PostgreSQL's
// user makes its data directory.
func (l *Lab) writeMemberConfig(ctx context.Context, h Host) error {
	parent := filepath.Dir(h.DataDir())
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("make the folder of the data directory: %w", err)
	}
	archive := ""
	if l.plan.Breakable {
		if err := l.mountDisk(ctx, h); err != nil {
			return err
		}
		archive = l.plan.archiveCommand(h)
	}
	if err := l.own(parent); err != nil {
		return err
	}
	if l.agent != nil {
		return l.writeAgentFiles(h)
	}
	var b strings.Builder
	err := memberTemplate.Execute(&b, map[string]any{"Plan": l.plan, "Host": h, "HBA": l.plan.hba(),
		"Consul": l.plan.consulAddresses(h), "Superuser": SuperuserRole, "Replication": ReplicationRole,
		"Archive": archive, "ConsulToken": l.plan.consulTokenFile(),
		"Traces": os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")})
	if err != nil {
		return fmt.Errorf("make pg.hcl: %w", err)
	}
	if err := os.WriteFile(filepath.Join(h.Dir, "pg.hcl"), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write pg.hcl: %w", err)
	}
	return nil
}

// stopPostgres stops the host's server at once (immediate shutdown), so that it
// removes its shared memory, and removes what one that was killed left.
func (l *Lab) stopPostgres(ctx context.Context, h Host) error {
	if h.Kind != KindMember {
		return nil
	}
	segment, known := sharedMemory(h)
	p, err := l.find(h, Postgres)
	if err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	if err == nil {
		defer p.close()
		// A stopped process takes no other signal before it goes on.
		if err := errors.Join(p.signal(syscall.SIGQUIT), p.signal(syscall.SIGCONT)); err != nil {
			return err
		}
		stopping, cancel := context.WithTimeout(ctx, downTimeout)
		defer cancel()
		// If it does not stop in time it is killed with the rest.
		_ = p.wait(stopping)
	}
	// The backends of a postmaster that was killed hold the segment.
	if err := l.killAll(ctx, h, 0); err != nil {
		return err
	}
	left := segmentsOf(h.DataDir())
	if known {
		left = append(left, segment)
	}
	var errs []error
	for _, s := range left {
		errs = append(errs, s.remove())
	}
	return errors.Join(errs...)
}

// killMachine kills a host's processes (but one; 0: all) as a loss of power does,
// after which no shared memory is left either.
func (l *Lab) killMachine(ctx context.Context, h Host, but int) error {
	if err := l.killAll(ctx, h, but); err != nil || h.Kind != KindMember {
		return err
	}
	var errs []error
	for _, s := range segmentsOf(h.DataDir()) {
		errs = append(errs, s.remove())
	}
	return errors.Join(errs...)
}

// segmentsOf finds the segments that killed servers of a data directory have left,
// whose postmaster.pid may be gone too: PostgreSQL writes the directory's device
// and inode into each (PGShmemHeader in pg_shmem.h, on 64 bits), to know its own.
func segmentsOf(dataDir string) (found []segment) {
	var dir unix.Stat_t
	list, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil || unix.Stat(dataDir, &dir) != nil {
		return nil
	}
	const header, magic, device, inode = 56, 679834894, 40, 48
	for line := range strings.Lines(string(list)) {
		f := strings.Fields(line)
		if len(f) < 7 || f[6] != "0" { // attached
			continue
		}
		key, err1 := strconv.Atoi(f[0])
		id, err2 := strconv.Atoi(f[1])
		size, err3 := strconv.Atoi(f[3])
		if err := errors.Join(err1, err2, err3); err != nil || size < header {
			continue
		}
		b, err := unix.SysvShmAttach(id, 0, unix.SHM_RDONLY)
		if err != nil {
			continue // somebody else's
		}
		if binary.NativeEndian.Uint32(b) == magic && binary.NativeEndian.Uint64(b[device:]) == dir.Dev && binary.NativeEndian.Uint64(b[inode:]) == dir.Ino {
			found = append(found, segment{key: key, id: id})
		}
		_ = unix.SysvShmDetach(b) // it was attached just now
	}
	return found
}

// segment is a System V shared memory segment, as postmaster.pid names it.
type segment struct{ key, id int }

// sharedMemory reads the seventh line of postmaster.pid: key and id of the
// segment that PostgreSQL uses to know that nobody else is in its directory.
func sharedMemory(h Host) (segment, bool) {
	b, err := os.ReadFile(filepath.Join(h.DataDir(), "postmaster.pid"))
	lines := strings.Split(string(b), "\n")
	if err != nil || len(lines) < 7 {
		return segment{}, false
	}
	fields := strings.Fields(lines[6])
	if len(fields) != 2 {
		return segment{}, false
	}
	key, err1 := strconv.Atoi(fields[0])
	id, err2 := strconv.Atoi(fields[1])
	return segment{key: key, id: id}, err1 == nil && err2 == nil
}

// remove removes the segment unless it is gone, is another's by now (its key is
// not what the file said), or is in use.
func (s segment) remove() error {
	var d unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(s.id, unix.IPC_STAT, &d); err != nil {
		return nil // gone, as it should be
	}
	if int(d.Perm.Key) != s.key || d.Nattch != 0 {
		return nil
	}
	if _, err := unix.SysvShmCtl(s.id, unix.IPC_RMID, nil); err != nil {
		return fmt.Errorf("remove shared memory segment %d: %w", s.id, err)
	}
	return nil
}
