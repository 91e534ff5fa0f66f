# It names itself.
cluster = "pg"
member  = "n1"

postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}

standby_of {
  service = "pg"
}
