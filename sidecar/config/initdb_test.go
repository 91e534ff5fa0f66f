package config_test

import (
	"slices"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// TestInitdbArgs: what initdb is told; without anything UTF8 and checksums.
func TestInitdbArgs(t *testing.T) {
	for _, c := range []struct {
		initdb config.Initdb
		want   []string
	}{
		{config.DefaultInitdb(), []string{"--encoding=UTF8", "--data-checksums"}},
		{config.Initdb{Encoding: "LATIN1", Locale: "de_DE", LocaleProvider: "icu", ICULocale: "de-DE"},
			[]string{"--encoding=LATIN1", "--locale=de_DE", "--locale-provider=icu", "--icu-locale=de-DE"}},
		{config.Initdb{LocaleProvider: "builtin", BuiltinLocale: "C.UTF-8", Checksums: true},
			[]string{"--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums"}},
	} {
		if got := c.initdb.Args(); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.initdb, got, c.want)
		}
	}
}
