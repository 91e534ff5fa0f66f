postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
durability {
  standbys   = 3
  max_voters = 2
}
