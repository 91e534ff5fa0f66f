package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// command runs one command line as a process would.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return typed(t, "", args...)
}

// typed runs a command line with what a person types.
func typed(t *testing.T, answers string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(answers), &out, &errs)
	return code, out.String(), errs.String()
}
