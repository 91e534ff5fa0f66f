package templates

import (
	"fmt"
	"strings"
)

// diffContext is how many equal lines Diff shows around a difference.
const diffContext = 3

// Diff returns the difference between two texts as a unified diff (POSIX diff
// -u), or nothing if they are equal.
func Diff(name, before, after string) string {
	if before == after {
		return ""
	}
	edits := shortest(lines(before), lines(after))
	var out strings.Builder
	fmt.Fprintf(&out, "--- %s\n+++ %s\n", name, name)
	for _, h := range hunks(edits) {
		h.write(&out)
	}
	return out.String()
}

// lines splits a text; a last line without an end keeps that.
func lines(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		out = append(out, l)
	}
	return out
}

// edit is one line of a diff.
type edit struct {
	op       byte // ' ', '-' or '+'
	line     string
	old, new int // line numbers from 0
}

// shortest finds a longest common subsequence by dynamic programming, after
// equal ends are set aside: configuration files are small.
func shortest(a, b []string) []edit {
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	tail := 0
	for tail < len(a)-start && tail < len(b)-start && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	x, y := a[start:len(a)-tail], b[start:len(b)-tail]
	if len(x)*len(y) > maxDiff {
		return replace(a, b)
	}
	length := make([][]int32, len(x)+1)
	for i := range length {
		length[i] = make([]int32, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var edits []edit
	for i := range start {
		edits = append(edits, edit{' ', a[i], i, i})
	}
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			edits = append(edits, edit{' ', x[i], start + i, start + j})
			i, j = i+1, j+1
		case j == len(y) || i < len(x) && length[i+1][j] >= length[i][j+1]:
			edits = append(edits, edit{'-', x[i], start + i, start + j})
			i++
		default:
			edits = append(edits, edit{'+', y[j], start + i, start + j})
			j++
		}
	}
	for k := range tail {
		edits = append(edits, edit{' ', a[len(a)-tail+k], len(a) - tail + k, len(b) - tail + k})
	}
	return edits
}

// maxDiff bounds the table of shortest; beyond it a text is shown as replaced.
const maxDiff = 16 << 20

func replace(a, b []string) []edit {
	var edits []edit
	for i, l := range a {
		edits = append(edits, edit{'-', l, i, 0})
	}
	for i, l := range b {
		edits = append(edits, edit{'+', l, len(a), i})
	}
	return edits
}

type hunk []edit

// hunks cuts the edits into groups with diffContext equal lines around them.
func hunks(edits []edit) []hunk {
	var out []hunk
	from, to := -1, -1 // of the hunk under way, in edits
	for i, e := range edits {
		if e.op == ' ' {
			continue
		}
		if from >= 0 && i-diffContext > to {
			out = append(out, hunk(edits[from:to]))
			from = -1
		}
		if from < 0 {
			from = max(0, i-diffContext)
		}
		to = min(len(edits), i+1+diffContext)
	}
	if from >= 0 {
		out = append(out, hunk(edits[from:to]))
	}
	return out
}

func (h hunk) write(out *strings.Builder) {
	var old, fresh int
	for _, e := range h {
		if e.op != '+' {
			old++
		}
		if e.op != '-' {
			fresh++
		}
	}
	fmt.Fprintf(out, "@@ -%s +%s @@\n", span(h[0].old, old), span(h[0].new, fresh))
	for _, e := range h {
		out.WriteByte(e.op)
		out.WriteString(e.line)
		if !strings.HasSuffix(e.line, "\n") {
			out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

// span writes where a hunk is in a file; an empty one is after its line.
func span(start, count int) string {
	if count == 0 {
		return fmt.Sprintf("%d,0", start)
	}
	return fmt.Sprintf("%d,%d", start+1, count)
}
