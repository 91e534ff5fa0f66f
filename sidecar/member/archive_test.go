package member

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// telling is an engine that may know why nothing is archived.
type telling struct {
	backup.Engine
	why    error
	checks int
}

func (e *telling) Unarchived() error { return e.why }

func (e *telling) Check(context.Context) error {
	e.checks++
	return backup.ErrArchiving
}

// TestExplain: why nothing is archived is told as the engine knows it; a check, which adds
// to what waits, is made only where it does not.
func TestExplain(t *testing.T) {
	e := &telling{why: errors.Join(backup.ErrFull)}
	a := &archive{log: hclog.NewNullLogger(), block: &config.Backup{Name: "main"}, engine: e}
	a.explain(t.Context())
	if a.problem != backup.ErrFull.Error() || e.checks != 0 {
		t.Errorf("said %q after %d checks", a.problem, e.checks)
	}
	e.why = nil
	a.explain(t.Context())
	if a.problem != backup.ErrArchiving.Error() || e.checks != 1 {
		t.Errorf("said %q after %d checks", a.problem, e.checks)
	}
}
