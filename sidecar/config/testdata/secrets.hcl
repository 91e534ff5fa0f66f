postgres {
  superuser {
    name     = "postgres"
    password = "hunter2"
  }
  replication {
    name          = "postgres"
    password_file = "secrets/none"
  }
}
consul {
  token      = "hunter3"
  token_file = "secrets/two-lines"
}
api { token_file = "secrets/empty" }
peers { key = env("UNSET") }
pgbouncer {
  password      = env("PGBOUNCER_PASSWORD")
  password_file = "secrets/token"
}
