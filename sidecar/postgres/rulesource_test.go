package postgres

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadRules: what lines of access rules name of other files is read as PostgreSQL reads
// it, each line knows where it is from, and what cannot be read ends the lines there.
func TestReadRules(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	put("dbs", "a b,\"c d\" # of ours\n\n@sub/more\n")
	put("sub/more", "\"q@x\"\n@beside")
	put("sub/beside", "e")
	put("none", "# nobody\n")
	put("round", "@round\n")
	put("rules/1.conf", "local x all peer\ninclude \"2.conf\" # and more\n")
	put("rules/2.conf", "local y all peer\n")
	put("rules/3.conf", "@../dbs\n")
	put("rules/readme", "no rule\n")
	at := func(name string) string { return filepath.Join(dir, name) }
	list := `a,b,"c d","q@x",e`
	for _, c := range []struct {
		line, want string
		version    int
		fails      string
	}{
		{line: "host @dbs all 10.0.0.0/8 md5", want: "host " + list + " all 10.0.0.0/8 md5\n"},
		{line: `host z,@"dbs",y @` + at("none") + " all trust", want: `host z,` + list + `,y "" all trust` + "\n"},
		{line: `local "@dbs" all peer # @lost`, want: `local "@dbs" all peer # @lost` + "\n"},
		{line: `local "a @dbs" user@host peer`, want: `local "a @dbs" user@host peer` + "\n"},
		{line: "local @lost all peer", fails: at("lost")},
		{line: "local @round all peer", fails: "deep"},
		{line: "include rules/1.conf", version: 15, want: "include rules/1.conf\n"},
		{line: "include rules/1.conf", version: 16, want: "local x all peer\nlocal y all peer\n"},
		{line: "include_dir \"rules\"", version: 16, want: "local x all peer\nlocal y all peer\nlocal y all peer\n" + list + "\n"},
		{line: "include_if_exists lost.conf # perhaps", version: 16},
		{line: "include lost.conf", version: 16, fails: at("lost.conf")},
		{line: "include rules/1.conf twice", version: 16, want: "include rules/1.conf twice\n"},
		{line: "host all all example.org scram-sha-256\r", want: "host all all example.org scram-sha-256\n"},
	} {
		s := &Server{o: Options{DataDir: dir, StateDir: t.TempDir()}, version: c.version}
		put("pg_hba.conf", "# ours\n"+c.line+"\n")
		c.want = "# ours\n" + c.want
		for where, configured := range map[string][]string{"the file": nil, "the configuration": {"# ours", c.line}} {
			got, err := s.readRules(hbaFile, configured)
			if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) || got.text != c.want || len(got.origin) != strings.Count(got.text, "\n") {
				t.Errorf("%s in %s: read %q, %v, lines from %v; want %q, %q", c.line, where, got.text, err, got.origin, c.want, c.fails)
			}
			if err != nil && configured == nil && !strings.HasPrefix(err.Error(), at("pg_hba.conf")+" line 2: ") {
				t.Errorf("%s: it says %v", c.line, err)
			}
		}
	}
}
