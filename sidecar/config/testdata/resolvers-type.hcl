postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
haproxy {
  socket    = "/run/haproxy/admin.sock"
  resolvers = 53
}
