package settings

import (
	"testing"
	"time"
)

func TestReadLimits(t *testing.T) {
	own := DefaultReadLimits()
	for stored, want := range map[string]ReadLimits{
		`{}`:                                     own,
		`{"service":{"replica_max_lag":"64MB"}}`: {64 << 20, time.Minute},
		`{"service":{"replica_max_delay":"10s"}}`:                          {0, 10 * time.Second},
		`{"service":{"replica_max_delay":"0"}}`:                            {},
		`{"service":{"replica_max_lag":"0","replica_max_delay":"0s"}}`:     {},
		`{"service":{"replica_max_lag":"1GB","replica_max_delay":"1.5h"}}`: {1 << 30, 90 * time.Minute},
	} {
		set, err := Parse([]byte(stored))
		if err != nil {
			t.Fatal(err)
		}
		if got := set.ReadLimits(own); got != want {
			t.Errorf("%s: %+v", stored, got)
		}
	}
	for _, stored := range []string{`{"service":{"replica_max_lag":"much"}}`, `{"service":{"replica_max_delay":"10"}}`, `{"service":{"replica_max_delay":"-1s"}}`, `{"service":{"name":"x"}}`} {
		if _, err := Parse([]byte(stored)); err == nil {
			t.Errorf("%s is taken", stored)
		}
	}
}

func TestTooLate(t *testing.T) {
	limits := ReadLimits{Lag: 64 << 20, Delay: time.Minute}
	for name, c := range map[string]struct {
		limits ReadLimits
		is     Lateness
		before bool
		late   bool
	}{
		"up to date":                  {limits, Lateness{}, false, false},
		"a little":                    {limits, Lateness{Lag: 40 << 20, Delay: 40 * time.Second}, false, false},
		"a little, and late before":   {limits, Lateness{Lag: 40 << 20}, true, true},
		"in time, and late before":    {limits, Lateness{Delay: 40 * time.Second}, true, true},
		"again up to date":            {limits, Lateness{Lag: 30 << 20, Delay: 30 * time.Second}, true, false},
		"too many bytes":              {limits, Lateness{Lag: 65 << 20}, false, true},
		"too long":                    {limits, Lateness{Delay: 61 * time.Second}, false, true},
		"delayed on purpose":          {limits, Lateness{Apply: 10 * time.Minute}, false, true},
		"delayed a moment on purpose": {limits, Lateness{Apply: 500 * time.Millisecond}, false, false},
		"delayed, as asked":           {ReadLimits{Delay: time.Hour}, Lateness{Apply: 10 * time.Minute, Delay: 11 * time.Minute}, false, false},
		"any, as asked":               {ReadLimits{}, Lateness{Lag: 1 << 40, Delay: 100 * time.Hour, Apply: time.Hour}, true, false},
	} {
		if why := c.limits.TooLate(c.is, c.before); (why != "") != c.late {
			t.Errorf("%s: %q", name, why)
		}
	}
}
