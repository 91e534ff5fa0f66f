package postgres

import (
	"strings"
	"testing"
)

// BenchmarkUserConf reads a postgresql.conf as initdb writes it: 840 lines, of which most
// are comments.
func BenchmarkUserConf(b *testing.B) {
	content := strings.Repeat("#log_min_duration_statement = -1\t\t# -1 is disabled, 0 logs all\n", 800) + strings.Repeat("work_mem = 4MB\n", 40)
	b.ReportAllocs()
	for b.Loop() {
		c := userConf{syntax: confSyntax}
		if err := c.addText("postgresql.conf", content, 0); err != nil || len(c.text) != len(content) {
			b.Fatal(err)
		}
	}
}
