package parameters

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tlsFiles are the parameters that name what a server with ssl reads when it starts: it does
// not start without.
var tlsFiles = []string{"ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file", "ssl_crl_dir", "ssl_dh_params_file"}

// notHere says which file or group of a value is not on this machine. Files whose names are
// relative are in the data directory, which may not be there yet; and without ssl nobody reads them.
func notHere(set map[string]string, name, value string) string {
	if strings.EqualFold(name, "unix_socket_group") {
		return UnknownGroup(value)
	}
	if !slices.Contains(tlsFiles, strings.ToLower(name)) || !filepath.IsAbs(value) || !isOn(of(set, "ssl")) {
		return ""
	}
	if _, err := os.Stat(value); !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return fmt.Sprintf("there is no file %s", value)
}

// UnknownGroup says that PostgreSQL would find no group by this name or number, with which it
// does not start. It takes any number for one.
func UnknownGroup(name string) string {
	if _, number := strconv.Atoi(name); name == "" || number == nil {
		return ""
	}
	var unknown user.UnknownGroupError
	if _, err := user.LookupGroup(name); !errors.As(err, &unknown) {
		return ""
	}
	return fmt.Sprintf("there is no group %q", name)
}

// reserved refuses counts of one set that leave no session to anybody but superusers, with
// which PostgreSQL does not start. What another set may give is not guessed.
func reserved(set map[string]string) error {
	const name = "superuser_reserved_connections"
	all, err1 := strconv.Atoi(of(set, "max_connections"))
	kept, err2 := strconv.Atoi(of(set, name))
	if err1 != nil || err2 != nil || kept < all {
		return nil
	}
	return refuse(ErrValue, name, "all %d of max_connections are reserved; expected less", all)
}

// of is a parameter's value in a set, whose names may be in letters of any case.
func of(set map[string]string, name string) string {
	for key, value := range set {
		if strings.EqualFold(key, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// isOn reads a Boolean as PostgreSQL does: by the beginning of a word.
func isOn(value string) bool {
	value = strings.ToLower(value)
	return value == "1" || value == "on" || value != "" && (strings.HasPrefix("true", value) || strings.HasPrefix("yes", value))
}
