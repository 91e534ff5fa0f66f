package postgres

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMounts: data without their state, and state whose data are not mounted, are refused with
// the way out; what an operator may do on purpose is not.
func TestMounts(t *testing.T) {
	opts := func(config string) string {
		return `/usr/lib/postgresql/15/bin/postgres "-D" "/data" "-c" "config_file=` + config + `" "-c" "port=5432"` + "\n"
	}
	type scene struct{ base, data, state, other string }
	write := func(t *testing.T, name, text string) {
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, []byte(text), 0o600))
	}
	run := func(t *testing.T, s scene) { // as after a start
		write(t, filepath.Join(s.data, "PG_VERSION"), "15\n")
		write(t, filepath.Join(s.data, "postmaster.opts"), opts(filepath.Join(s.state, "postgresql.conf")))
		write(t, filepath.Join(s.state, "promise"), `{"term":7}`)
		server := &Server{o: Options{DataDir: s.data, StateDir: s.state}}
		must(t, server.noteMounts())
	}
	for name, c := range map[string]struct {
		then func(t *testing.T, s scene)
		says string
	}{
		"nothing has changed": {func(*testing.T, scene) {}, ""},
		"both are new":        {func(t *testing.T, s scene) { must(t, errors.Join(os.RemoveAll(s.data), os.RemoveAll(s.state))) }, ""},
		"the state is lost":   {func(t *testing.T, s scene) { must(t, os.RemoveAll(s.state)) }, "which is empty now. Is its file system mounted?"},
		"its directory is empty": {func(t *testing.T, s scene) { must(t, errors.Join(os.RemoveAll(s.state), os.Mkdir(s.state, 0o700))) },
			"touch"},
		"the loss is accepted": {func(t *testing.T, s scene) {
			must(t, os.RemoveAll(s.state))
			write(t, filepath.Join(s.state, acceptedFile), "")
		}, ""},
		"state_dir is another": {func(t *testing.T, s scene) {
			must(t, os.Rename(s.state, s.other))
			write(t, filepath.Join(s.data, "postmaster.opts"), opts(filepath.Join(s.other, "postgresql.conf")))
		}, "set postgres { state_dir = "},
		"both were moved": {func(t *testing.T, s scene) {
			write(t, filepath.Join(s.data, "postmaster.opts"), opts("/where/it/was.pgsidecar/postgresql.conf"))
		}, ""},
		"Debian's server": {func(t *testing.T, s scene) {
			must(t, os.RemoveAll(s.state))
			write(t, filepath.Join(s.data, "postmaster.opts"), opts("/etc/postgresql/15/main/postgresql.conf"))
		}, ""},
		"a server that was started by hand": {func(t *testing.T, s scene) {
			must(t, os.RemoveAll(s.state))
			write(t, filepath.Join(s.data, "postmaster.opts"), `/usr/bin/postgres "-D" "/data"`+"\n")
		}, ""},
		"the data's disk is new, and mounted": {func(t *testing.T, s scene) { must(t, errors.Join(os.RemoveAll(s.data), os.Mkdir(s.data, 0o700))) }, ""},
		"the data's disk is not mounted": {func(t *testing.T, s scene) {
			must(t, errors.Join(os.RemoveAll(s.data), os.Mkdir(s.data, 0o700)))
			write(t, filepath.Join(s.state, mountsFile), `{"data_mount":"`+s.base+`"}`)
		}, "Mount it"},
		"nor is there its directory": {func(t *testing.T, s scene) {
			must(t, os.RemoveAll(s.data))
			write(t, filepath.Join(s.state, mountsFile), `{"data_mount":"`+s.base+`"}`)
		}, "Mount it"},
		"the data were copied to the disk below": {func(t *testing.T, s scene) {
			write(t, filepath.Join(s.state, mountsFile), `{"data_mount":"`+s.base+`"}`)
		}, ""},
		"the data go to another disk": {func(t *testing.T, s scene) {
			must(t, os.RemoveAll(s.data))
			write(t, filepath.Join(s.state, mountsFile), `{"data_mount":"/somewhere/else"}`)
			must(t, errors.Join(os.MkdirAll(s.data, 0o700)))
		}, map[bool]string{true: "Mount it"}[mountOfTemp(t) == "/"]},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			s := scene{base, filepath.Join(base, "data"), filepath.Join(base, "state"), filepath.Join(base, "other")}
			run(t, s)
			c.then(t, s)
			err := CheckMounts(s.state, s.data)
			if c.says == "touch" {
				c.says = "make an empty file " + s.state + "/" + acceptedFile
			}
			if (err != nil) != (c.says != "") || err != nil && (!errors.Is(err, ErrMounts) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

func mountOfTemp(t *testing.T) string {
	mount, err := mountOf((&Server{}).files, t.TempDir())
	must(t, err)
	return mount
}

// TestApart: that both directories are on different file systems is said, whether they are
// there yet or not; so is the mount point, which a start writes down.
func TestApart(t *testing.T) {
	far, err := os.MkdirTemp("/dev/shm", "pgsidecar-apart-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(far)) })
	near, err := os.MkdirTemp("/var/tmp", "pgsidecar-apart-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(near)) })
	if mountOfTemp(t); Apart(near, near) != "" || Apart(filepath.Join(near, "a"), filepath.Join(near, "b", "c")) != "" {
		t.Error("on one file system, and said to be on two")
	}
	if got := Apart(near, far); got == "" {
		t.Skip("/dev/shm and /var/tmp are on one file system")
	} else if !strings.Contains(got, "on that at /dev/shm") {
		t.Errorf("%q", got)
	}
	must(t, os.Symlink(filepath.Join(far, "not there yet"), filepath.Join(near, "data")))
	if got := Apart(near, filepath.Join(near, "data")); !strings.Contains(got, "on that at /dev/shm") {
		t.Errorf("by a link: %q", got)
	}
	s := &Server{o: Options{DataDir: far, StateDir: near}}
	must(t, s.noteMounts())
	var was mounts
	content, err := os.ReadFile(filepath.Join(near, mountsFile))
	must(t, errors.Join(err, json.Unmarshal(content, &was)))
	if was.Data != "/dev/shm" {
		t.Errorf("noted: %s", content)
	}
}
