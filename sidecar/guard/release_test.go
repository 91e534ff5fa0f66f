package guard

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

func TestUnchangedMappings(t *testing.T) {
	// As proc(5) shows them: constants that were relocated, code, constants,
	// variables, another file's code, a path with a space.
	smaps := `00010000-00020000 r--p 00000000 08:01 7 /bin/it
Rss:                  64 kB
Anonymous:             4 kB
VmFlags: rd mr mw me sd
00400000-00800000 r-xp 00000000 08:01 7 /bin/it
Rss:                  64 kB
Anonymous:             0 kB
LazyFree:              0 kB
00800000-00900000 r--p 00400000 08:01 7 /bin/it
Anonymous:             0 kB
00900000-00a00000 rw-p 00500000 08:01 7 /bin/it
Anonymous:             0 kB
7f0000000000-7f0000100000 r-xp 00000000 08:01 8 /lib/other
Anonymous:             0 kB
7f0000200000-7f0000300000 r-xp 00000000 08:01 9 /bin/it (deleted)
Anonymous:             0 kB
7f0000400000-7f0000500000 rw-p 00000000 00:00 0
Anonymous:             0 kB
`
	got, err := unchanged(strings.NewReader(smaps), "/bin/it")
	want := []addresses{{0x400000, 0x800000}, {0x800000, 0x900000}}
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%x, %v; want %x", got, err, want)
	}
}

// TestReleaseProgram: the process lives on, with less in memory. In a process of
// its own, because the tests beside it touch pages too.
func TestReleaseProgram(t *testing.T) {
	if os.Getenv("PGSIDECAR_TEST_RELEASE") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestReleaseProgram$", "-test.v")
		cmd.Env = append(os.Environ(), "PGSIDECAR_TEST_RELEASE=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "released ") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	before := fileResident(t)
	if err := ReleaseProgram(); err != nil {
		t.Fatal(err)
	}
	after := fileResident(t)
	t.Logf("released %d kB of %d", before-after, before)
	if after > before*3/4 {
		t.Errorf("%d kB of files are resident, %d before", after, before)
	}
}

// fileResident is how much of files is resident, in kB.
func fileResident(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[0] == "RssFile:" {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no RssFile in /proc/self/status")
	return 0
}
