package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// errHBA is the rule for a line of pg_hba.conf.
var errHBA = errors.New(`expected type, database, user, address and method, such as "host all all 10.0.0.0/8 scram-sha-256"`)

// hbaMethods are those of PostgreSQL 13 to 18 (documentation, section 20.3).
var hbaMethods = []string{"trust", "reject", "scram-sha-256", "md5", "password", "gss", "sspi", "ident", "peer", "ldap", "radius",
	"cert", "pam", "bsd", "oauth"}

// CheckHBA returns what is wrong with a line of pg_hba.conf (PostgreSQL
// documentation, section 20.1); the server has the last word.
func CheckHBA(line string) error {
	words := strings.Fields(line)
	if len(words) == 0 || strings.ContainsAny(line, "\r\n") {
		return errHBA
	}
	at := 4
	switch words[0] {
	case "local":
		at = 3
	case "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc":
	default:
		return errHBA
	}
	if len(words) <= at {
		return errHBA
	}
	if at == 4 {
		if _, err := netip.ParseAddr(words[3]); err == nil && len(words) > 5 && net.ParseIP(words[4]) != nil {
			at = 5 // address and mask are two words
		} else if err == nil {
			return fmt.Errorf("address %s: expected a mask too, such as %s/32", words[3], words[3])
		}
		if _, err := netip.ParsePrefix(words[3]); err != nil && strings.Contains(words[3], "/") {
			return fmt.Errorf("address %s: expected one such as 10.0.0.0/8", words[3])
		}
	}
	if method := words[at]; !slices.Contains(hbaMethods, method) {
		return fmt.Errorf("method %s: expected one of %s", method, strings.Join(hbaMethods, ", "))
	}
	return nil
}

// SecretInHBA reports whether a line holds a password, which must not be where
// everybody may read it.
func SecretInHBA(line string) bool {
	return strings.Contains(line, "ldapbindpasswd") || strings.Contains(line, "radiussecrets")
}
