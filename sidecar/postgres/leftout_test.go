package postgres

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestLeftOut: of what a source leaves out of a copy only data matter, in whatever language
// it says so; what is in the copy was not left out.
func TestLeftOut(t *testing.T) {
	s := serverOfFiles(t)
	must(t, os.MkdirAll(s.data("base", "5"), 0o700))
	for line, want := range map[string]string{
		`WARNING:  skipping special file "./base/16384"`:                                   "base/16384",
		`WARNUNG:  überspringe besondere Datei »./base/5/16400«`:                           "base/5/16400",
		`WARNING:  skipping special file "pg_tblspc/16385/PG_15_202209061/5/1"`:            "pg_tblspc/16385/PG_15_202209061/5/1",
		`WARNING:  skipping special file "./pg_xact"`:                                      "pg_xact",
		`WARNING:  skipping special file "./log"`:                                          "",
		`WARNING:  skipping special file "./pg_hba.conf"`:                                  "",
		`WARNING:  skipping special file "./postgresql.auto.conf"`:                         "",
		`WARNING:  skipping special file "./.s.PGSQL.5432"`:                                "",
		`WARNING:  skipping special file "./pg_wal/archive_status"`:                        "",
		`WARNUNG:  Prüfsummenüberprüfung fehlgeschlagen in Datei »./base/5«, Block 1`:      "", // it is there
		`NOTICE:  all required WAL segments have been archived`:                            "",
		`pg_basebackup: error: could not create directory "/srv/pg/base": File exists`:     "",
		`24000/24000 kB (100%), 1/1 tablespace (...data.pgsidecar-clone/base/5/16400    )`: "",
	} {
		var ended error
		l := leftOut{from: "n1", enough: func(err error) { ended = err }}
		l.hear(line)
		err := l.missing(s, s.o.DataDir)
		if got := err != nil && strings.Contains(err.Error(), ": "+want+" on n1."); got != (want != "") {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
		if english := want != "" && strings.HasPrefix(line, "WARNING"); english != (ended != nil) {
			t.Errorf("%s: ended by %v", line, ended)
		}
	}
}

// dataLinks: a database that an operator has moved to another disk by a link is in no
// copy: none is made without it, and the data that were there stay.
func dataLinks(t *testing.T, a *member) {
	a.sql("create database moved")
	oid := a.sql("select oid from pg_database where datname = 'moved'")
	b := a.newStandby("n9")
	must(t, errors.Join(b.Stop(soon(t), false), a.Stop(soon(t), false)))
	place, disk := a.data("base", oid), filepath.Join(a.base, "moved")
	must(t, errors.Join(os.Rename(place, disk), os.Symlink(disk, place), a.own(place)))
	must(t, a.Start(soon(t), StartOptions{Primary: true}))
	a.up()
	before := b.inspect()
	err := b.Clone(soon(t), a.source(), nil)
	if !errors.Is(err, ErrLeftOut) || !strings.Contains(err.Error(), "base/"+oid+" on n1") {
		t.Errorf("a copy without a database: %v", err)
	}
	must(t, b.Discard(soon(t)))
	if after := b.inspect(); after.DataDir == ha.DataAbsent || after.DataDir != before.DataDir {
		t.Errorf("what is left: %+v; it was %+v", after, before)
	}
	must(t, a.Stop(soon(t), false))
	must(t, errors.Join(os.Remove(place), os.Rename(disk, place)))
	must(t, a.Start(soon(t), StartOptions{Primary: true}))
	a.up()
	a.sql("drop database moved")
	must(t, b.Clone(soon(t), a.source(), nil))
}
