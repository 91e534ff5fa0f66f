postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
durability {
  mode     = "async"
  standbys = 1
  strict   = true
}
