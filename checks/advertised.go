package checks

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// codeProtocol is what PgBouncer refuses with, whatever its reason
// (protocol_violation; send_pooler_error in PgBouncer's objects.c).
const codeProtocol = "08P01"

// Misled says what answers, where the others are told that this member's server is, that
// is not that server: a pooler, or another member's. Empty: it is that server, or nobody
// can tell, as nothing answers there or nobody is let in.
func Misled(ctx context.Context, to Upstream, password func() (string, error)) string {
	conn, err := connect(ctx, to, password, map[string]string{"replication": "true"})
	var refused *pgconn.PgError
	if errors.As(err, &refused) && slices.Contains([]string{codeProtocol, codeUnsupported}, refused.Code) {
		return fmt.Sprintf("what answers there does not let the others replicate, as a pooler (%s)", refused.Message)
	}
	if err != nil {
		return ""
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// Each server has its member's name.
	row, err := command(ctx, conn, "SHOW cluster_name")
	if err != nil || len(row) == 0 || string(row[0]) == to.Self {
		return ""
	}
	return fmt.Sprintf("the server that answers there is %q, not %q", row[0], to.Self)
}
