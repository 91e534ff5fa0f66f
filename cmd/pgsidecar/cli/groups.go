package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// group is a part of the list of commands, by what a person is about to do.
type group struct {
	name  string
	lines []groupLine
}

// groupLine is one line of that list: commands that belong together, and what
// they do, in at most 49 columns.
type groupLine struct{ commands, does string }

// groups has every command that people type, once (TestRootHelp). `pgsidecar
// --help` shows it, and fits a terminal of 24 lines.
var groups = []group{
	{"Run", []groupLine{
		{"run", "one member: the PostgreSQL server of this machine"},
		{"proxy, render", "what runs beside HAProxy and PgBouncer; its files"},
	}},
	{"Operate", []groupLine{
		{"status, topology", "members, roles, lag, what anything waits for"},
		{"history, site", "changes of leader, with phases; the other site"},
		{"switchover", "hand the lead to another member; loses nothing"},
		{"failover", "make a member lead when no leader is left"},
		{"pause, resume", "begin and end maintenance: nobody fails over"},
		{"restart, reload", "restart PostgreSQL; read a configuration again"},
		{"reinit, remove", "clone a replica anew; forget a member"},
	}},
	{"Back up", []groupLine{
		{"backup, restore", "make backups, check the archive; restore in place"},
	}},
	{"Settings", []groupLine{
		{"settings", "show, set, edit, history: of all members at once"},
	}},
	{"Prove", []groupLine{
		{"lab, drill", "a cluster to try and break; faults, measured"},
		{"availability, assess", "how long it took writes; how mature it is"},
	}},
	{"Install", []groupLine{
		{"config, import", "a member's file pg.hcl: begin, check, import"},
		{"files, nomad", "unit, ACL policy, dashboard; job files for Nomad"},
		{"completion, version", "of your shell; of this program"},
	}},
}

// writeRootHelp writes what `pgsidecar` alone prints.
func writeRootHelp(w io.Writer, root *cobra.Command) error {
	var b strings.Builder
	b.WriteString(root.Long + "\n\nUsage: pgsidecar COMMAND [flags]    (its flags: pgsidecar COMMAND --help)\n\n")
	for _, g := range groups {
		name := g.name
		for _, line := range g.lines {
			fmt.Fprintf(&b, "%-10s%-20s %s\n", name, line.commands, line.does)
			name = ""
		}
	}
	b.WriteString("\n" + hang("Pages, by pgsidecar help PAGE: "+strings.Join(topicNames(), ", "), helpWidth, 0))
	_, err := io.WriteString(w, b.String())
	return err
}
