package rights_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// nobody is a user of the system whose rights are tried.
const nobody = 65534

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// scene is a folder of nobody's, and a file and a folder of root's that nobody may not read.
func scene(t *testing.T) (theirs, secret, folder string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	base, err := os.MkdirTemp("", "pgsidecar-rights-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(base)) })
	must(t, os.Chmod(base, 0o755))
	theirs, secret, folder = filepath.Join(base, "theirs"), filepath.Join(base, "secret"), filepath.Join(base, "folder")
	must(t, errors.Join(os.Mkdir(theirs, 0o700), os.Chown(theirs, nobody, nobody), os.Mkdir(folder, 0o755)))
	must(t, os.WriteFile(secret, []byte("root's"), 0o640)) // its group is root's too
	must(t, os.WriteFile(filepath.Join(folder, "kept"), []byte("root's"), 0o644))
	return theirs, secret, folder
}

// TestLinks plants links to root's files in a folder of the user's, and does all that is
// done there: root's files are neither read nor changed.
func TestLinks(t *testing.T) {
	u := rights.Of(nobody, nobody)
	for name, do := range map[string]func(link, other string) error{
		"ReadFile": func(link, _ string) error { _, err := u.ReadFile(link); return err },
		"ReadOwn":  func(link, _ string) error { _, err := u.ReadOwn(link); return err },
		"Open":     func(link, _ string) error { _, err := u.Open(link); return err },
		"OpenFile": func(link, _ string) error { _, err := u.OpenFile(link, os.O_WRONLY|os.O_TRUNC, 0); return err },
		"OpenLock": func(link, _ string) error { _, err := rights.OpenLock(link); return err },
		"Chmod":    func(link, _ string) error { return u.Chmod(link, 0o666) },
		"MakeDir":  func(_, other string) error { return u.MakeDir(other) },
		"RemoveAll": func(_, other string) error {
			return u.RemoveAll(filepath.Join(other, "kept"))
		},
		"Rename": func(_, other string) error {
			return u.Rename(filepath.Join(other, "kept"), filepath.Join(other, "moved"))
		},
		"CreateTemp": func(_, other string) error { _, err := u.CreateTemp(other, "new"); return err },
		"Replace":    func(_, other string) error { return u.Replace(filepath.Join(other, "kept"), nil) },
		"Link":       func(_, other string) error { return u.Link(filepath.Join(other, "kept"), filepath.Join(other, "link")) },
		"Symlink":    func(_, other string) error { return u.Symlink("/", filepath.Join(other, "link")) },
		"Mkdir":      func(_, other string) error { return u.Mkdir(filepath.Join(other, "new"), 0o700) },
		"MkdirTemp":  func(_, other string) error { _, err := u.MkdirTemp(other, "new"); return err },
		"Remove":     func(_, other string) error { return u.Remove(filepath.Join(other, "kept")) },
	} {
		t.Run(name, func(t *testing.T) {
			theirs, secret, folder := scene(t)
			link, other := filepath.Join(theirs, "link"), filepath.Join(theirs, "other")
			must(t, errors.Join(os.Symlink(secret, link), os.Symlink(folder, other)))
			if err := do(link, other); err == nil {
				t.Error("was done")
			}
			content, err := os.ReadFile(secret)
			must(t, err)
			entries, err := os.ReadDir(folder)
			must(t, err)
			info, err := os.Stat(secret)
			must(t, err)
			at, err := os.Stat(folder)
			must(t, err)
			if string(content) != "root's" || len(entries) != 1 || entries[0].Name() != "kept" || info.Mode() != 0o640 || at.Sys().(*syscall.Stat_t).Uid != 0 {
				t.Errorf("changed what is root's: %q, %v, %v", content, entries, info.Mode())
			}
		})
	}
}

// A log that a link leads from is renamed, and begun anew.
func TestAppend(t *testing.T) {
	theirs, secret, _ := scene(t)
	log := filepath.Join(theirs, "log")
	must(t, os.Symlink(secret, log))
	f, err := rights.OwnerOf(theirs).Append(log, 10)
	must(t, err)
	_, err = f.WriteString("a line of ours")
	must(t, errors.Join(err, f.Close()))
	if content, err := os.ReadFile(secret); err != nil || string(content) != "root's" {
		t.Errorf("root's file has %q, %v", content, err)
	}
	f, err = rights.OwnerOf(theirs).Append(log, 10) // it is long by now
	must(t, err)
	info, err := f.Stat()
	must(t, errors.Join(err, f.Close()))
	if info.Size() != 0 || info.Sys().(*syscall.Stat_t).Uid != nobody {
		t.Errorf("a new log has %d bytes", info.Size())
	}
}

// What an earlier release made as root in the user's folder can be read, replaced and
// locked.
func TestEarlierRelease(t *testing.T) {
	theirs, _, _ := scene(t)
	u, name := rights.OwnerOf(theirs), filepath.Join(theirs, "settings.json")
	must(t, os.WriteFile(name, []byte("kept"), 0o600))
	if content, err := u.ReadOwn(name); err != nil || string(content) != "kept" {
		t.Errorf("read %q, %v", content, err)
	}
	f, err := rights.OpenLock(name)
	must(t, err)
	must(t, f.Close())
	must(t, u.ReplaceSync(name, []byte("new")))
	if content, err := u.ReadFile(name); err != nil || string(content) != "new" {
		t.Errorf("then %q, %v", content, err)
	}
	must(t, os.WriteFile(name+"2", []byte("kept"), 0o600))
	must(t, os.Link(name+"2", name+"3"))
	if _, err := u.ReadOwn(name + "3"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a file with two names was read: %v", err)
	}
}

func TestMakeDir(t *testing.T) {
	theirs, _, folder := scene(t)
	u, base := rights.Of(nobody, nobody), filepath.Dir(theirs)
	for name, c := range map[string]struct {
		path string
		lay  func(path string) error
		want error
	}{
		"new, in root's":                {filepath.Join(base, "new", "dir"), nil, nil},
		"new, in the user's":            {filepath.Join(theirs, "new"), nil, nil},
		"root's, empty: a new volume":   {filepath.Join(base, "volume"), func(p string) error { return os.Mkdir(p, 0o755) }, nil},
		"root's, through a link, empty": {filepath.Join(theirs, "up", "volume2"), func(p string) error { return errors.Join(os.Symlink(base, filepath.Dir(p)), os.Mkdir(p, 0o755)) }, nil},
		"root's, through a link":        {filepath.Join(theirs, "up2", "folder"), func(p string) error { return os.Symlink(base, filepath.Dir(p)) }, rights.ErrOwner},
		"a link":                        {filepath.Join(theirs, "straight"), func(p string) error { return os.Symlink(folder, p) }, rights.ErrOwner},
		"somebody else's":               {filepath.Join(base, "else"), func(p string) error { return errors.Join(os.Mkdir(p, 0o755), os.Chown(p, 1, 1)) }, rights.ErrOwner},
		"a file":                        {filepath.Join(theirs, "file"), func(p string) error { return os.WriteFile(p, nil, 0o600) }, syscall.ENOTDIR},
	} {
		t.Run(name, func(t *testing.T) {
			if c.lay != nil {
				must(t, c.lay(c.path))
			}
			if err := u.MakeDir(c.path); !errors.Is(err, c.want) {
				t.Fatalf("error %v", err)
			}
			if c.want != nil {
				return
			}
			info, err := os.Lstat(c.path)
			must(t, err)
			if info.Mode() != fs.ModeDir|0o700 || info.Sys().(*syscall.Stat_t).Uid != nobody {
				t.Errorf("%v, user %d", info.Mode(), info.Sys().(*syscall.Stat_t).Uid)
			}
		})
	}
}

// The rights are one call's: beside it, and after it, the process has its own.
func TestRightsEnd(t *testing.T) {
	theirs, secret, _ := scene(t)
	u := rights.OwnerOf(theirs)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 50 {
				if _, err := u.ReadFile(secret); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("the user reads root's file: %v", err)
				}
			}
		})
		all.Go(func() {
			for range 50 {
				if _, err := os.ReadFile(secret); err != nil {
					t.Errorf("root does not read its own file: %v", err)
				}
			}
		})
	}
	all.Wait()
	func() {
		defer func() { _ = recover() }()
		_ = u.Do(func() error { panic("in the middle") })
	}()
	if _, err := os.ReadFile(secret); err != nil {
		t.Errorf("after a panic root does not read its own file: %v", err)
	}
}
