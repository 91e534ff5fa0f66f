package config

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Initdb is how a new cluster's data is made, if it is not from a backup. It has a meaning
// until the cluster is founded.
type Initdb struct {
	Encoding string // empty: UTF8
	Locale   string // empty: C.UTF-8, by the environment that initdb gets
	// LocaleProvider is libc, icu or builtin (PostgreSQL 15, and 17 for builtin); empty:
	// PostgreSQL's own default. ICULocale goes with icu, BuiltinLocale with builtin.
	LocaleProvider string
	ICULocale      string
	BuiltinLocale  string
	Checksums      bool
	// WALSegmentMB is a power of two, 1 to 1024.
	WALSegmentMB int
}

// defaultWALSegmentMB is the size of a new cluster's WAL segments. A promotion copies
// and syncs a whole one: with 4 MiB it takes 19 ms, with PostgreSQL's 16 MiB 34
// (measured on two cores). Smaller ones gain nothing more.
const defaultWALSegmentMB = 4

// DefaultInitdb is what holds where the file says nothing.
func DefaultInitdb() Initdb { return Initdb{Checksums: true, WALSegmentMB: defaultWALSegmentMB} }

// Args are initdb's arguments.
func (i Initdb) Args() []string {
	args := []string{"--encoding=" + i.Encoding}
	if i.Encoding == "" {
		args[0] = "--encoding=UTF8"
	}
	for _, a := range [][2]string{{"--locale=", i.Locale}, {"--locale-provider=", i.LocaleProvider}, {"--icu-locale=", i.ICULocale}, {"--builtin-locale=", i.BuiltinLocale}} {
		if a[1] != "" {
			args = append(args, a[0]+a[1])
		}
	}
	if i.Checksums {
		args = append(args, "--data-checksums")
	}
	return args
}

func (r *reader) initdb(b *hclsyntax.Body, path string, i *Initdb) {
	r.body(b, path, []field{
		text("encoding", &i.Encoding),
		text("locale", &i.Locale),
		choice("locale_provider", &i.LocaleProvider, "libc", "icu", "builtin"),
		text("icu_locale", &i.ICULocale),
		text("builtin_locale", &i.BuiltinLocale),
		claim("checksums", &i.Checksums),
		number("wal_segment_mb", &i.WALSegmentMB),
	}, nil)
}

func (r *reader) checkInitdb(i *Initdb) {
	const path = "bootstrap.initdb"
	r.require(i.WALSegmentMB >= 1 && i.WALSegmentMB <= 1024 && i.WALSegmentMB&(i.WALSegmentMB-1) == 0, path+".wal_segment_mb",
		"expected a power of two from 1 to 1024, got %d", i.WALSegmentMB)
	r.require(i.ICULocale == "" || i.LocaleProvider == "icu", path+".icu_locale", `icu_locale goes with locale_provider = "icu"`)
	r.require(i.LocaleProvider != "icu" || i.ICULocale != "" || i.Locale != "", path+".locale_provider", `locale_provider "icu" needs icu_locale, such as "en-US"`)
	r.require((i.BuiltinLocale != "") == (i.LocaleProvider == "builtin"), path+".builtin_locale", `locale_provider "builtin" and builtin_locale ("C" or "C.UTF-8") go together`)
	for _, name := range []string{i.Encoding, i.Locale, i.ICULocale, i.BuiltinLocale} {
		r.require(!strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || slices.Contains([]rune{'\'', '"', '\\'}, c) }), path,
			"expected names of one word, got %q", name)
	}
}

func (w *writer) initdb(i *Initdb) {
	b := w.block("initdb")
	b.set("encoding", i.Encoding)
	b.set("locale", i.Locale)
	b.set("locale_provider", i.LocaleProvider)
	b.set("icu_locale", i.ICULocale)
	b.set("builtin_locale", i.BuiltinLocale)
	b.set("checksums", i.Checksums)
	b.set("wal_segment_mb", i.WALSegmentMB)
}
