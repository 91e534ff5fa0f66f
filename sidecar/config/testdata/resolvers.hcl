postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
haproxy {
  socket    = "/run/haproxy/admin.sock"
  resolvers = ["127.0.0.1:8600", "dns.example.com:53", "10.0.0.1", "10.0.0.1:53\n    server evil 6.6.6.6:1"]
}
