package parameters

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// libraryLists are the parameters that name libraries, each with the folder under the
// libraries' own in which a name without a path is looked for.
var libraryLists = map[string]string{
	"shared_preload_libraries": "", "session_preload_libraries": "", "local_preload_libraries": "plugins", "archive_library": "",
}

// missingLibrary says which library of a value is not on this machine: a server does not
// start with it, or refuses each session. Empty: all are, or it cannot be told.
func missingLibrary(postgres, name, value string) string {
	under, is := libraryLists[strings.ToLower(name)]
	if !is || value == "" {
		return ""
	}
	own := libraryFolder(postgres)
	if own == "" {
		return ""
	}
	names := []string{value}
	if strings.Contains(name, "libraries") {
		names = strings.Split(value, ",")
	}
	for _, library := range names {
		library = strings.Trim(strings.TrimSpace(library), `"`)
		path := library
		switch {
		case library == "":
			continue
		case strings.HasPrefix(library, "$libdir/"):
			path = filepath.Join(own, strings.TrimPrefix(library, "$libdir/"))
		case !strings.Contains(library, "/"):
			path = filepath.Join(own, under, library)
		}
		if !exists(path) && !exists(path+".so") {
			return fmt.Sprintf("there is no library %q in %s; install the package that has it on each member, or set dynamic_library_path too", library, filepath.Dir(path))
		}
	}
	return ""
}

// libraryFolder finds the server's libraries, as PostgreSQL does: beside its programs.
// Empty: not found.
func libraryFolder(postgres string) string {
	real, err := filepath.EvalSymlinks(postgres)
	if err != nil {
		return ""
	}
	base := filepath.Dir(filepath.Dir(real))
	folders := []string{filepath.Join(base, "lib"), filepath.Join(base, "lib", "postgresql"), filepath.Join(base, "lib64", "pgsql"),
		filepath.Join(base, "lib64", "postgresql")}
	// Each server has this one.
	i := slices.IndexFunc(folders, func(f string) bool { return exists(filepath.Join(f, "plpgsql.so")) })
	if i < 0 {
		return ""
	}
	return folders[i]
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
