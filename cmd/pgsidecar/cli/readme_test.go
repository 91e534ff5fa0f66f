package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// readme is the page that a new user reads first.
const readme = "../../../README.md"

// runElsewhere are the lines of README that this test does not run: the test that
// does, by its name, or a target of make.
var runElsewhere = map[string]string{
	"make up":      "make contact",
	"make release": "make release-check",
	"make build":   "make test",
	"make check":   "make check",
	"make test":    "make test",
	"make drills":  "make drills",
	"pgsidecar run -config /etc/pgsidecar/pg.hcl": "TestAdopts",
	"pgsidecar status --watch":                    "TestWatch",
}

// code is what a page shows as code: indented lines, and a fenced block by its
// language.
func code(page string) (lines []string, fenced map[string]string) {
	fenced = map[string]string{}
	language, inside := "", false
	for line := range strings.Lines(page) {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = !inside
			language = strings.TrimSpace(strings.TrimPrefix(line, "```"))
		case inside:
			fenced[language] += line
		case strings.HasPrefix(line, "    "):
			lines = append(lines, strings.TrimRight(line[4:], "\n"))
		}
	}
	return lines, fenced
}

// TestReadme: the page is short, and every command in it is run, here or by the test
// that is named; what it shows of the status is what the program shows.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	if n := strings.Count(page, "\n"); n > 130 || len(tooWide(page, 100)) > 0 {
		t.Errorf("%d lines, too wide: %q", n, tooWide(page, 100))
	}
	n1, n2 := fakeCluster(t)
	healthy(n1, n2)
	t.Setenv("PGSIDECAR_API", n2.address())
	t.Setenv("PGSIDECAR_TOKEN", fakeToken)
	lines, fenced := code(page)
	file := readmeConfiguration(t, fenced["hcl"])
	elsewhere := map[string]bool{}
	for i, line := range lines {
		command, _, _ := strings.Cut(line, "  #")
		shown, shows := strings.CutPrefix(strings.TrimSpace(command), "$ ")
		switch {
		case runElsewhere[shown] != "":
			elsewhere[shown] = true
			exists(t, runElsewhere[shown])
		case strings.HasPrefix(shown, "pgsidecar settings set"):
			settingsOf(t, shown)
		case strings.HasPrefix(shown, "pgsidecar "):
			stdout := runLine(t, strings.ReplaceAll(shown, "/etc/pgsidecar/pg.hcl", file))
			stdout = strings.ReplaceAll(stdout, "\n\n", "\n") // an empty line is in no block
			if want := strings.Join(lines[i+1:], "\n"); shows && !strings.HasPrefix(want, strings.TrimRight(stdout, "\n")) {
				t.Errorf("%s shows\n%s\nREADME has\n%s", shown, stdout, want)
			}
		case i == 0 || !strings.HasPrefix(lines[0], "$ ") || i > 6: // what the first command shows is compared above
			t.Errorf("this test does not know the command %q", line)
		}
	}
	for line := range runElsewhere {
		if !elsewhere[line] {
			t.Errorf("README has no %q any more", line)
		}
	}
	root := newRootCommand(&Process{Getenv: os.Getenv})
	refuseUnknown(root)
	for _, fault := range lineFaults(root, page) {
		t.Error(fault)
	}
	for _, topic := range regexp.MustCompile("`pgsidecar help ([a-z]+)`").FindAllStringSubmatch(page, -1) {
		runLine(t, "pgsidecar help "+topic[1])
	}
	for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join("../../..", link[1])); err != nil {
			t.Errorf("a link to nothing: %v", err)
		}
	}
}

// runLine runs a line as a person types it.
func runLine(t *testing.T, line string) string {
	t.Helper()
	code, stdout, stderr := command(t, strings.Fields(line)[1:]...)
	if code != ExitOK {
		t.Errorf("%s: exit status %d, %s", line, code, stderr)
	}
	return stdout
}

// settingsOf runs a line that changes the settings, on a member that has some.
func settingsOf(t *testing.T, line string) {
	t.Helper()
	t.Run(line, func(t *testing.T) {
		m := newSettingsMember(t, someSettings)
		runLine(t, line)
		if len(m.patches) != 1 {
			t.Errorf("%s stored %q", line, m.patches)
		}
	})
}

// healthy makes the fake cluster one in which nothing is wrong.
func healthy(members ...*fakeMember) {
	for _, m := range members {
		st := &m.status
		st.Templates, st.Blocks, st.LeaseLeft, st.History = nil, nil, 0, nil
		for i := range st.Members {
			s := &st.Members[i]
			s.Restart, s.Term, s.Position = false, 7, ha.Position{TLI: 4, LSN: 0x3300000}
			if s.Member != "n2" {
				s.Link, s.HeardAge, s.Streaming, s.Lag, s.API, s.Upstream = "up", 0.2, true, new(uint64), members[0].address(), "n2"
			}
		}
	}
}

// exists reports a test, or a target of make, that there is not.
func exists(t *testing.T, name string) {
	t.Helper()
	pattern, in := "^func "+name+"(t ", []string{"--include=*_test.go", "../../../cmd", "../../../sidecar", "../../../nomad"}
	if target, is := strings.CutPrefix(name, "make "); is {
		pattern, in = "^"+target+":", []string{"../../../Makefile"}
	}
	if out, err := exec.CommandContext(t.Context(), "grep", append([]string{"-rq", pattern}, in...)...).CombinedOutput(); err != nil {
		t.Errorf("there is no %s: %v %s", name, err, out)
	}
}

// readmeConfiguration writes README's pg.hcl with its files, and returns its path.
func readmeConfiguration(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"superuser.password", "replication.password", "api.token"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("hunter2\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "pg.hcl")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "/etc/pgsidecar", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestReadmeFigures: every figure of README's table, and those above it, are in the
// files that measurements write.
func TestReadmeFigures(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("../../..", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	page, bench, chaos := read("README.md"), read("sidecar/drill/bench.md"), read("sidecar/drill/chaos.md")
	rows := 0
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z-]+) \| ([0-9.]+ m?s) \| ([0-9.]+ m?s) \| ([0-9.]+ m?s) \|$`).FindAllStringSubmatch(page, -1) {
		rows++
		row := fmt.Sprintf(`(?m)^\| %s \| %s / .* \| %s / .* \| %s / .* \|$`, m[1], m[2], m[3], m[4])
		if !regexp.MustCompile(row).MatchString(bench) {
			t.Errorf("bench.md does not have %s", m[0])
		}
	}
	if rows != 4 {
		t.Errorf("%d rows in the table, want 4", rows)
	}
	for figure, in := range map[string]string{"105 ms (median)": "| postgres-killed | 105 ms /", "was 23 ms": "| consul-away | 21 ms / 23 ms (3)",
		"0.43 % of a core": "| processor, idle | 0.43 %", "no write to Consul's Raft log": "| Raft writes a minute, idle | 0 |"} {
		if !strings.Contains(page, figure) || !strings.Contains(bench, in) {
			t.Errorf("README's %q is not bench.md's %q", figure, in)
		}
	}
	// The sums of the three runs in quorum mode that chaos.md tells of.
	faults, commits := 0, 0
	for _, p := range []string{`Mode quorum: (\d+) faults`, `quorum mode\s+(\d+)\s+faults`, `In quorum mode (\d+) faults`} {
		faults += number(t, chaos, p)
	}
	for _, p := range []string{`rows sent, (\d+) acknowledged`, `38 minutes, ([\d,]+) rows`, `36 minutes, ([\d,]+) rows`} {
		commits += number(t, chaos, p)
	}
	if want := fmt.Sprintf("none of %s, over %s random faults in quorum mode", grouped(commits), grouped(faults)); !strings.Contains(page, want) {
		t.Errorf("README does not say %q", want)
	}
}

func number(t *testing.T, text, pattern string) (n int) {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("nothing like %q", pattern)
	}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(m[1], ",", "")), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// grouped writes a number with commas.
func grouped(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}
