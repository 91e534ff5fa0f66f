// Package programs finds the programs that a cluster is made of: on PATH, where
// Debian puts them, or where this repository builds them; and it finds free ports
// for them.
package programs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
)

// ErrMissing is returned for a program that is nowhere; its text says how to
// get it.
var ErrMissing = errors.New("program not found")

// Consul returns the path of consul: the one built by `make programs` in the
// repository's .cache/bin, else the one on PATH.
func Consul() (string, error) { return find("consul", "make programs", cacheDirs()) }

// Nomad returns the path of nomad, found like consul.
func Nomad() (string, error) { return find("nomad", "make programs-nomad", cacheDirs()) }

// HAProxy returns the path of haproxy.
func HAProxy() (string, error) {
	return find("haproxy", "apt-get install haproxy", []string{"/usr/sbin"})
}

// PgBouncer returns the path of pgbouncer.
func PgBouncer() (string, error) {
	return find("pgbouncer", "apt-get install pgbouncer", []string{"/usr/sbin"})
}

// PgBouncerPrepares reports whether a PgBouncer keeps clients' prepared statements in
// transaction mode (max_prepared_statements, since 1.21).
func PgBouncerPrepares(path string) bool {
	out, err := exec.Command(path, "--version").Output()
	var major, minor int
	if _, scanned := fmt.Sscanf(string(out), "PgBouncer %d.%d", &major, &minor); err != nil || scanned != nil {
		return false
	}
	return major > 1 || minor >= 21
}

// PgBackRest returns the path of pgbackrest.
func PgBackRest() (string, error) {
	return find("pgbackrest", "apt-get install pgbackrest", nil)
}

// Promtool returns the path of Prometheus's tool, found like consul.
func Promtool() (string, error) { return find("promtool", "make programs", cacheDirs()) }

// VIPManager returns the path of vip-manager built with Consul, which Debian's
// is not, found like consul.
func VIPManager() (string, error) { return find("vip-manager", "make programs", cacheDirs()) }

// VIPManager2 returns the path of a vip-manager that follows Patroni's API,
// found like consul.
func VIPManager2() (string, error) { return find("vip-manager2", "make programs", cacheDirs()) }

// PostgresBin returns the directory of PostgreSQL's server programs, of the
// newest version that Debian's packages have installed.
func PostgresBin() (string, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", fmt.Errorf("look for PostgreSQL: %w", err)
	}
	slices.Sort(dirs)
	for _, dir := range slices.Backward(dirs) {
		if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: postgres (apt-get install postgresql)", ErrMissing)
}

func find(name, remedy string, dirs []string) (string, error) {
	for _, dir := range dirs {
		if path := filepath.Join(dir, name); executable(path) {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %s (%s)", ErrMissing, name, remedy)
	}
	return path, nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// cacheDirs are the .cache/bin folders of the repository that holds the working
// directory and of the one this file was compiled from.
func cacheDirs() []string {
	var dirs []string
	if dir, err := os.Getwd(); err == nil {
		for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				dirs = append(dirs, filepath.Join(dir, ".cache", "bin"))
				break
			}
		}
	}
	if _, file, _, ok := runtime.Caller(0); ok {
		root := filepath.Join(filepath.Dir(file), "..", "..", "..")
		dirs = append(dirs, filepath.Join(root, ".cache", "bin"))
	}
	return dirs
}
