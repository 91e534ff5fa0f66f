postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
haproxy {
  socket        = "/run/haproxy/admin.sock"
  master_socket = "/run/haproxy/admin.sock"
}
template "a" {
  builtin     = "haproxy.cfg"
  destination = "/etc/haproxy/haproxy.cfg"
  command     = ["systemctl", "reload", "haproxy"]
  reload      = "haproxy"
}
template "b" {
  builtin     = "pgbouncer.ini"
  destination = "/etc/b"
  reload      = "pgbouncer"
}
