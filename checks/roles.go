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
	"strings"

	"github.com/jackc/pgx/v5"
)

// Role is a database role that must exist.
type Role struct {
	Name      string
	Password  string // empty: left as it is
	Superuser bool   // otherwise it may replicate and be the source of a pg_rewind
}

// EnsureRoles makes the roles, or gives them the password and the rights that
// they lack, and reports whether it had to. It changes nothing that is so already. Only
// SCRAM verifiers are sent, so that no password can get into the server's log.
func (c *Conn) EnsureRoles(ctx context.Context, roles []Role) (changed bool, err error) {
	err = c.work.do(ctx, func(conn *pgx.Conn) error {
		for _, r := range roles {
			did, err := ensureRole(ctx, conn, r)
			if err != nil {
				return fmt.Errorf("role %s: %w", r.Name, err)
			}
			changed = changed || did
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("make roles: %w", err)
	}
	return changed, nil
}

// RoleHolds reports whether a role is there and has the rights that EnsureRoles gives it. Its
// password is not looked at, which takes the server's iterations of SCRAM.
func (c *Conn) RoleHolds(ctx context.Context, r Role) (holds bool, err error) {
	err = c.work.do(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `select coalesce((select `+roleRight+` and ($2 or (select bool_and(has_function_privilege(a.oid, f, 'execute')) from unnest($3::text[]) f))
			from pg_authid a where rolname = $1), false)`, r.Name, r.Superuser, rewindFunctions[:]).Scan(&holds)
	})
	if err != nil {
		return false, fmt.Errorf("look at the role %s: %w", r.Name, err)
	}
	return holds, nil
}

// roleRight is what a role must be; $2: a superuser. The one that replicates has no last day
// and no limit below what walsenders have: it would be refused from the next connection on,
// which is the one to a new primary. A superuser logs in by the socket, and has no limit.
const roleRight = `(rolcanlogin and case when $2 then rolsuper when rolsuper then true else rolreplication
	and (rolconnlimit < 0 or rolconnlimit >= current_setting('max_wal_senders')::int) end
	and ($2 or coalesce(rolvaliduntil, 'infinity') = 'infinity'))`

func ensureRole(ctx context.Context, conn *pgx.Conn, r Role) (changed bool, err error) {
	var found, right bool
	var verifier string
	err = conn.QueryRow(ctx, `select true, coalesce(rolpassword, ''), `+roleRight+`
		from pg_authid where rolname = $1`, r.Name, r.Superuser).Scan(&found, &verifier, &right)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return false, err
	}
	options := " login replication connection limit -1 valid until 'infinity'"
	if r.Superuser {
		options = " login superuser"
	}
	newPassword := r.Password != "" && !verifies(verifier, r.Password)
	if newPassword {
		made, err := newVerifier(r.Password)
		if err != nil {
			return false, err
		}
		options += " password " + quoteText(made)
	}
	verb := "create role "
	if found {
		verb = "alter role "
	}
	changed = !found || !right || newPassword
	if changed {
		if _, err := conn.Exec(ctx, verb+quoteName(r.Name)+options); err != nil {
			return false, err
		}
	}
	if r.Superuser {
		return changed, nil
	}
	return changed, ensureRewindRights(ctx, conn, r.Name)
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

// newVerifier makes what pg_authid keeps of a password (RFC 5803).
func newVerifier(password string) (string, error) {
	password, err := prepared(password)
	if err != nil {
		return "", err
	}
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
	if password, err = prepared(password); err != nil {
		return false
	}
	made, err := verifier(password, salt, rounds)
	return err == nil && hmac.Equal([]byte(made), []byte(have))
}
