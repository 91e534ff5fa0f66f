package haproxy

import (
	"slices"
	"testing"
)

// The master says which workers are older than the last reload: a new one, which the
// stats socket does not lead to yet, is none of them.
func TestOldWorkersOfTheMaster(t *testing.T) {
	const answer = "#<PID>          <type>          <reloads>       <uptime>        <version>\n" +
		"1               master          1 [failed: 0]   0d00h00m09s     2.8\n" +
		"# workers\n3               worker          0               0d00h00m01s     2.8\n" +
		"# old workers\n2               worker          1               0d00h00m09s     2.8\n" +
		"# programs\n\n"
	f, err := parseFamily(answer)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.workers, []int{3, 2}) || !slices.Equal(f.old, []int{2}) {
		t.Errorf("workers %v, of which %v are old", f.workers, f.old)
	}
}
