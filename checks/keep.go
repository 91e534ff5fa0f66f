package checks

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// WriteProbe writes and syncs, waiting for no replica: it finds a server that is
// read only (ErrReadOnly), a full disk (ErrDiskFull), and, by its deadline, a
// disk that hangs. It leaves no row behind: one record in the log, and a file
// that ends with the transaction.
func (c *Conn) WriteProbe(ctx context.Context) error {
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		// The exported snapshot is a small new file on the data directory's file
		// system: a full one refuses it, while the log may still have room in a
		// recycled segment.
		_, err := conn.Exec(ctx, `begin isolation level repeatable read read write;
			select pg_logical_emit_message(true, 'pgsidecar', 'probe'), pg_export_snapshot();
			commit`, pgx.QueryExecModeSimpleProtocol)
		if err != nil && !conn.IsClosed() {
			if hasCode(err, codeUnsupported) { // "cannot set read-write mode during recovery"
				err = fmt.Errorf("%w: %w", ErrReadOnly, err)
			}
			_, end := conn.Exec(ctx, "rollback", pgx.QueryExecModeSimpleProtocol)
			return errors.Join(err, end)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write probe: %w", err)
	}
	return nil
}

// Checkpoint makes a checkpoint: after a promotion, so that pg_rewind from this
// server is right; before a planned stop, so that the stop is short.
func (c *Conn) Checkpoint(ctx context.Context) error {
	err := c.slow.do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "checkpoint")
		return err
	})
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// Role is a database role that must exist.
type Role struct {
	Name      string
	Password  string // empty: left as it is
	Superuser bool   // otherwise it may replicate and be the source of a pg_rewind
}

// EnsureRoles makes the roles, or gives them the password and the rights that
// they lack. It changes nothing that is so already. Only SCRAM verifiers are
// sent, so that no password can get into the server's log.
func (c *Conn) EnsureRoles(ctx context.Context, roles []Role) error {
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		for _, r := range roles {
			if err := ensureRole(ctx, conn, r); err != nil {
				return fmt.Errorf("role %s: %w", r.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make roles: %w", err)
	}
	return nil
}

func ensureRole(ctx context.Context, conn *pgx.Conn, r Role) error {
	var found, right bool
	var verifier string
	err := conn.QueryRow(ctx, `select true, coalesce(rolpassword, ''),
		rolcanlogin and case when $2 then rolsuper else rolreplication or rolsuper end
		from pg_authid where rolname = $1`, r.Name, r.Superuser).Scan(&found, &verifier, &right)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	options := " login replication"
	if r.Superuser {
		options = " login superuser"
	}
	newPassword := r.Password != "" && !verifies(verifier, r.Password)
	if newPassword {
		made, err := newVerifier(r.Password)
		if err != nil {
			return err
		}
		options += " password " + quoteText(made)
	}
	verb := "create role "
	if found {
		verb = "alter role "
	}
	if !found || !right || newPassword {
		if _, err := conn.Exec(ctx, verb+quoteName(r.Name)+options); err != nil {
			return err
		}
	}
	if r.Superuser {
		return nil
	}
	return ensureRewindRights(ctx, conn, r.Name)
}

// rewindFunctions are what pg_rewind calls on its source.
var rewindFunctions = [...]string{"pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)",
	"pg_read_binary_file(text)", "pg_read_binary_file(text, bigint, bigint, boolean)"}

func ensureRewindRights(ctx context.Context, conn *pgx.Conn, role string) error {
	for _, f := range rewindFunctions {
		var has bool
		if err := conn.QueryRow(ctx, "select has_function_privilege($1::name, $2::text, 'execute')", role, f).Scan(&has); err != nil {
			return err
		}
		if has {
			continue
		}
		if _, err := conn.Exec(ctx, "grant execute on function "+f+" to "+quoteName(role)); err != nil {
			return err
		}
	}
	return nil
}

// iterations is PostgreSQL's own number for SCRAM-SHA-256.
const iterations = 4096

// newVerifier makes what pg_authid keeps of a password (RFC 5803). Passwords
// outside ASCII are taken as they are written, already normalized.
func newVerifier(password string) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt) // never fails
	return verifier(password, salt, iterations)
}

func verifier(password string, salt []byte, rounds int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, rounds, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive a SCRAM key: %w", err)
	}
	mac := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text)) // never fails
		return m.Sum(nil)
	}
	stored := sha256.Sum256(mac(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", rounds, b64(salt), b64(stored[:]), b64(mac(salted, "Server Key"))), nil
}

// verifies reports whether the verifier is of this password.
func verifies(have, password string) bool {
	rest, found := strings.CutPrefix(have, "SCRAM-SHA-256$")
	if !found {
		return false
	}
	var rounds int
	head, _, _ := strings.Cut(rest, "$")
	count, salt64, _ := strings.Cut(head, ":")
	if _, err := fmt.Sscan(count, &rounds); err != nil || rounds <= 0 {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(salt64)
	if err != nil {
		return false
	}
	made, err := verifier(password, salt, rounds)
	return err == nil && hmac.Equal([]byte(made), []byte(have))
}

// slotPrefix marks the slots that are ours to drop.
const slotPrefix = "pgsidecar_"

// SlotName is the replication slot of a member. Slots allow lower-case letters,
// digits and underscores; another name gets a checksum so that it stays one of
// its own.
func SlotName(member string) string {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, member)
	if plain == member && len(member) <= 50 {
		return slotPrefix + member
	}
	return fmt.Sprintf("%s%.40s_%08x", slotPrefix, plain, crc32.ChecksumIEEE([]byte(member)))
}

// EnsureSlots makes a physical replication slot for each of the members but this
// one, and drops those of ours that are nobody's and not in use. A standby's
// slots are only there so that the others can follow it the moment it leads:
// they move on with its own replay and hold nothing back.
func (c *Conn) EnsureSlots(ctx context.Context, members []string) error {
	var want []string
	for _, m := range members {
		if m != c.o.Member {
			want = append(want, SlotName(m))
		}
	}
	err := c.work.do(ctx, func(conn *pgx.Conn) error { return ensureSlots(ctx, conn, want) })
	if err != nil {
		return fmt.Errorf("keep replication slots: %w", err)
	}
	return nil
}

func ensureSlots(ctx context.Context, conn *pgx.Conn, want []string) error {
	rows, err := conn.Query(ctx, `select slot_name::text, active from pg_replication_slots
		where slot_type = 'physical' and starts_with(slot_name::text, $1)`, slotPrefix)
	if err != nil {
		return err
	}
	type slot struct {
		Name   string
		Active bool
	}
	have, err := pgx.CollectRows(rows, pgx.RowToStructByPos[slot])
	if err != nil {
		return err
	}
	for _, h := range have {
		if h.Active || slices.Contains(want, h.Name) {
			continue
		}
		if _, err := conn.Exec(ctx, "select pg_drop_replication_slot($1)", h.Name); err != nil {
			return fmt.Errorf("drop slot %s: %w", h.Name, err)
		}
	}
	for _, w := range want {
		if slices.ContainsFunc(have, func(h slot) bool { return h.Name == w }) {
			continue
		}
		_, err := conn.Exec(ctx, "select pg_create_physical_replication_slot($1, true)", w)
		if err != nil && !hasCode(err, codeDuplicate) {
			return fmt.Errorf("make slot %s: %w", w, err)
		}
	}
	_, err = conn.Exec(ctx, `select pg_replication_slot_advance(slot_name, pg_last_wal_replay_lsn())
		from pg_replication_slots where pg_is_in_recovery() and slot_type = 'physical' and not active
		and starts_with(slot_name::text, $1) and restart_lsn < pg_last_wal_replay_lsn()`, slotPrefix)
	return err
}
