package checks

// defaults finds settings of roles and databases (PostgreSQL documentation, 20.1.3) by
// which commits are answered before a standby has flushed them, and those of databases by
// which transactions may not write. A role that is to read only is often given it, on purpose.
// A setting is kept as it was typed, and a boolean may be cut short (19.1.1).
const defaults = `
select setting || case when role.rolname is null then '' else ' of role ' || quote_ident(role.rolname) end
  || case when db.datname is null then '' else ' in database ' || quote_ident(db.datname) end
from pg_db_role_setting s cross join unnest(s.setconfig) as setting
left join pg_roles role on role.oid = s.setrole left join pg_database db on db.oid = s.setdatabase
where setting ~* '^synchronous_commit=(off|local|remote_write|false|no|0)$'
  or setrole = 0 and setting ~* '^default_transaction_read_only=(on|t|tr|tru|true|y|ye|yes|1)$' order by 1`
