package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInitdbOptions: a new server is made as the options say.
func TestInitdbOptions(t *testing.T) {
	m := newMember(t, "n1", func(o *Options) {
		o.WAL = WAL{SegmentMB: 16, Initdb: []string{"--encoding=LATIN1", "--locale=C"}}
	})
	must(t, m.Init(soon(t)))
	must(t, m.Start(soon(t), StartOptions{Primary: true}))
	m.up()
	for query, want := range map[string]string{"show server_encoding": "LATIN1", "show data_checksums": "off", "show wal_segment_size": "16MB",
		"select datcollate from pg_database where datname = 'postgres'": "C"} {
		if got := m.sql(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

// TestInitdbArgs: what is not asked for is not made, whatever the version's default is.
func TestInitdbArgs(t *testing.T) {
	for _, c := range []struct {
		version int
		args    string
		want    string
	}{
		{17, "--encoding=UTF8", "--encoding=UTF8"},
		{17, "--data-checksums", "--data-checksums"},
		{18, "--encoding=UTF8", "--encoding=UTF8 --no-data-checksums"},
		{18, "--data-checksums --locale=C", "--data-checksums --locale=C"},
		{18, "-k", "-k"},
		{18, "--no-data-checksums", "--no-data-checksums"},
	} {
		if got := strings.Join(initdbArgs(c.version, strings.Fields(c.args)), " "); got != c.want {
			t.Errorf("PostgreSQL %d, %q: %q, want %q", c.version, c.args, got, c.want)
		}
	}
}

// TestInitdbOfVersion: what the programs do not know is refused by the version's number
// before anything is made, and only where something may be made.
func TestInitdbOfVersion(t *testing.T) {
	for _, c := range []struct {
		version int
		args    []string
		want    string
	}{
		{17, []string{"--locale-provider=builtin", "--builtin-locale=C"}, ""},
		{16, []string{"--locale-provider=builtin", "--builtin-locale=C"}, "does not know initdb's --locale-provider=builtin, which came with PostgreSQL 17"},
		{15, []string{"--locale-provider=icu", "--icu-locale=de-DE"}, ""},
		{14, []string{"--locale-provider=libc"}, "PostgreSQL 14 in "},
		{14, []string{"--encoding=UTF8", "--data-checksums"}, ""},
	} {
		base := testDir(t)
		bin, data := filepath.Join(base, "bin"), filepath.Join(base, "data")
		must(t, os.Mkdir(bin, 0o755))
		must(t, os.WriteFile(filepath.Join(bin, "postgres"), fmt.Appendf(nil, "#!/bin/sh\necho 'postgres (PostgreSQL) %d.1'\n", c.version), 0o755))
		made := func() error {
			_, err := New(Options{Member: "n1", DataDir: data, BinDir: bin, Listen: "127.0.0.1:1", Guard: &testGuard{}, WAL: WAL{Initdb: c.args}})
			return err
		}
		if err := made(); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("PostgreSQL %d, %q: %v, want %q", c.version, c.args, err, c.want)
		}
		must(t, os.MkdirAll(data, 0o755))
		must(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), fmt.Appendln(nil, c.version), 0o644))
		if err := made(); err != nil {
			t.Errorf("with data: %v", err)
		}
	}
}
