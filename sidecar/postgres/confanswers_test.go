package postgres

import (
	"os"
	"path/filepath"
	"testing"
)

// TestAskedOnce: PostgreSQL is asked once of the same configuration, and anew when any
// file that it reads, a setting, the parameter or the program itself has changed.
func TestAskedOnce(t *testing.T) {
	a := newPrimary(t, "n1")
	set := Settings{Parameters: map[string]string{"work_mem": "5MB"}}
	user := "max_connections = 90\n"
	ask := func(parameter string) string {
		t.Helper()
		before := len(a.answers.known)
		value, err := a.askConf(soon(t), set, user, parameter)
		must(t, err)
		if len(a.answers.known) == before {
			return "known: " + value
		}
		return value
	}
	expect := func(what, want string) {
		t.Helper()
		if got := ask("max_connections"); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
		if got := ask("max_connections"); got != "known: "+want {
			t.Errorf("%s, again: %q, want it known to be %q", what, got, want)
		}
	}
	expect("the first question", "90")
	if got := ask("work_mem"); got != "5120" && got != "5MB" {
		t.Errorf("another parameter: %q", got)
	}
	user = "max_connections = 91\n"
	expect("the user's file has changed", "91")
	set.Parameters = map[string]string{"max_connections": "92"}
	expect("a setting has changed", "92")
	must(t, os.WriteFile(a.data(autoFile), []byte("max_connections = '93'\n"), 0o600))
	expect("ALTER SYSTEM has set it", "93")
	must(t, os.WriteFile(a.state(controlFile), []byte("primary_conninfo = 'application_name=x'\n"), 0o600))
	expect("what the server follows has changed", "93")
	bin, err := filepath.EvalSymlinks(a.o.BinDir)
	must(t, err)
	links := filepath.Join(filepath.Dir(a.o.DataDir), "bin") // where the server's user may look
	must(t, os.Mkdir(links, 0o755))
	must(t, os.Symlink(filepath.Join(bin, "postgres"), filepath.Join(links, "postgres")))
	a.o.BinDir = links
	expect("the program is another", "93")
	user = "work_mem = many\n"
	for range 2 {
		if _, err := a.askConf(soon(t), set, user, "max_connections"); err == nil {
			t.Error("what PostgreSQL refuses is taken")
		}
	}
}

// TestSets: a comment, or a parameter that only begins so, is no reason to ask.
func TestSets(t *testing.T) {
	for text, want := range map[string]bool{
		"max_connections = 100\n": true, "\t MAX_Connections=1": true, "work_mem = 1\nmax_connections 5\n": true,
		"#max_connections = 100\n": false, "  # max_connections = 100": false, "work_mem = '1' # max_connections": false, "": false,
	} {
		if got := sets(text, "max_connections"); got != want {
			t.Errorf("%q sets max_connections: %v, want %v", text, got, want)
		}
	}
}
