package checks

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// weakCommits finds settings of roles and databases (PostgreSQL documentation,
// 20.1.3) by which commits are answered before a standby has flushed them.
const weakCommits = `
select setting || case when role.rolname is null then '' else ' of role ' || quote_ident(role.rolname) end
  || case when db.datname is null then '' else ' in database ' || quote_ident(db.datname) end
from pg_db_role_setting s cross join unnest(s.setconfig) as setting
left join pg_roles role on role.oid = s.setrole left join pg_database db on db.oid = s.setdatabase
where setting ~* '^synchronous_commit=(off|local|remote_write|false|no|0)$' order by 1`

// WeakCommits names the roles' and databases' settings that give up the promise
// that standbys hold each acknowledged commit. What a session sets for itself
// cannot be seen.
func (c *Conn) WeakCommits(ctx context.Context) ([]string, error) {
	var found []string
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, weakCommits)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for weaker synchronous_commit: %w", err)
	}
	return found, nil
}
