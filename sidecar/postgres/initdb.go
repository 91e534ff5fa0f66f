package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// initdbArgs returns the arguments with what makes them mean the same in every version:
// from PostgreSQL 18 on, initdb makes checksums unless it is told not to.
func initdbArgs(version int, args []string) []string {
	if version < 18 || slices.ContainsFunc(args, func(a string) bool { return a == "-k" || strings.HasSuffix(a, "data-checksums") }) {
		return args
	}
	return append(slices.Clone(args), "--no-data-checksums")
}

// initdbSince are the arguments of initdb that not all versions know, with the first
// that does.
var initdbSince = map[string]int{"--locale-provider": 15, "--locale-provider=builtin": 17, "--icu-locale": 15, "--builtin-locale": 17}

// checkInitdb refuses arguments that the programs do not know, where a server may be made.
func (s *Server) checkInitdb() error {
	if bare, err := s.empty(s.o.DataDir); err != nil || !bare {
		return nil //nolint:nilerr // Init and Inspect say what is there
	}
	for _, a := range s.o.WAL.Initdb {
		name, _, _ := strings.Cut(a, "=")
		if first := max(initdbSince[name], initdbSince[a]); s.version < first {
			return fmt.Errorf("bootstrap.initdb: PostgreSQL %d in %s does not know initdb's %s, which came with PostgreSQL %d", s.version, s.o.BinDir, a, first)
		}
	}
	return nil
}
