package postgres

import (
	"errors"
	"strings"
	"testing"
)

// TestProgramError: libpq's words for a password file that it cannot open are told
// from a wrong password.
func TestProgramError(t *testing.T) {
	failed := errors.New("exit status 1")
	for said, hint := range map[string]bool{
		"connection to server at \"127.0.0.1\", port 5432 failed: fe_sendauth: no password supplied":                              true,
		"connection to server at \"127.0.0.1\", port 5432 failed: FATAL:  password authentication failed for user \"replicator\"": false,
	} {
		err := programError("pg_basebackup", failed, said)
		if !errors.Is(err, ErrPassword) || strings.Contains(err.Error(), "may PostgreSQL's user enter it") != hint {
			t.Errorf("%s: %v", said, err)
		}
	}
}
