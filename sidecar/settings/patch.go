package settings

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/rogpeppe/go-internal/diff"
)

// Object reads a JSON object, its numbers as they are written.
func Object(text []byte) (map[string]any, error) {
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return nil, fmt.Errorf("expected a JSON object: %w", err)
	}
	return fields, nil
}

// Pretty writes an object with sorted keys, one a line. What is none it leaves.
func Pretty(text []byte) []byte {
	fields, err := Object(text)
	if err != nil {
		return text
	}
	b, err := json.MarshalIndent(fields, "", "  ")
	if err != nil {
		return text
	}
	return append(b, '\n')
}

// PatchBetween is the merge patch (RFC 7396) that turns one object into another.
func PatchBetween(from, to []byte) ([]byte, error) {
	patch, err := jsonpatch.CreateMergePatch(from, to)
	if err != nil {
		return nil, fmt.Errorf("compare settings: %w", err)
	}
	return patch, nil
}

// Merge applies a JSON merge patch (RFC 7396) to stored settings; empty: there are
// none.
func Merge(doc, patch []byte) ([]byte, error) {
	if _, err := Object(patch); err != nil {
		return nil, fmt.Errorf("the change is not a JSON object: %w", err)
	}
	doc = OrEmpty(doc)
	if _, err := Object(doc); err != nil {
		return nil, fmt.Errorf("the stored settings are not JSON: %w", err)
	}
	next, err := jsonpatch.MergePatch(doc, patch)
	if err != nil {
		return nil, fmt.Errorf("merge the change: %w", err)
	}
	return next, nil
}

// Difference shows how one text becomes another, as a person reads it: lines that go
// with a minus, lines that come with a plus, and some around them.
func Difference(old, next []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(diff.Diff("old", old, "new", next))) {
		switch {
		case strings.HasPrefix(line, "diff ") || strings.HasPrefix(line, "--- old") || strings.HasPrefix(line, "+++ new"):
		case strings.HasPrefix(line, "@@"):
			if b.Len() > 0 {
				b.WriteString("  ...\n")
			}
		default:
			b.WriteString(line[:1] + " " + line[1:])
		}
	}
	return b.String()
}
