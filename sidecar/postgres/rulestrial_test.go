package postgres

import (
	"errors"
	"strings"
	"testing"
)

// testRules: each line of pg_hba.conf is refused, in PostgreSQL's words, before it is
// used, if the server would refuse the file for it; what it would take is taken.
func testRules(t *testing.T, m *member) {
	for line, says := range map[string]string{
		"host all all 10.0.0.0/8 scram-sha-256":               "",
		"hostssl all all 10.0.0.0/8 scram-sha-256":            "", // cannot match without ssl, and is read
		`host "my db" +readers samenet md5`:                   "",
		"local all all peer map=people":                       "",
		"host all all 10.0.0.0/8 ldap":                        "ldap",
		"host all all 0.0.0.0/0 peer":                         "peer",
		"host all all db.example/32 scram-sha-256":            "host name",
		"host all all 10.0.0.0/33 scram-sha-256":              "invalid CIDR mask",
		"host all all 10.0.0.1 scram-sha-256":                 "invalid IP mask",
		"host all all 10.0.0.0/8 cert":                        "hostssl",
		"host all all 10.0.0.0/8 scram-sha-256 colour=red":    "unrecognized authentication option name",
		"host all all 10.0.0.0/8 radius":                      "radiusservers",
		`host all "all 10.0.0.0/8 trust`:                      "end-of-line",
		"hostssl all all 10.0.0.0/8 md5 clientcert=verify-no": "clientcert",
	} {
		err := m.TryRules(soon(t), Settings{HBA: []string{"local all all trust", line}})
		switch {
		case says == "" && err != nil:
			t.Errorf("%s: %v", line, err)
		case says != "" && (!errors.Is(err, ErrSetting) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "local all")):
			t.Errorf("%s: %v, want a word on %q", line, err, says)
		}
		// PostgreSQL 15 forgets to say it there of clientcert, and still refuses the file.
		if (err == nil) != (m.asServer(line) == "") && !strings.Contains(line, "clientcert") {
			t.Errorf("%s: tried it is %v, and the server says %q", line, err, m.asServer(line))
		}
	}
}

// asServer is what the running server refuses of a line.
func (m *member) asServer(line string) string {
	m.t.Helper()
	before := []byte("local all all trust\n")
	must(m.t, m.write(m.state("pg_hba.conf"), append(before, line+"\n"...)))
	return m.sql("select string_agg(error, '; ') from pg_hba_file_rules where error is not null and error not like '%cannot match because%'")
}
