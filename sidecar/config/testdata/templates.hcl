postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
template "a" {
  destination = "/etc/x"
}
template "b" {
  source      = "/x.tmpl"
  builtin     = "haproxy"
  destination = "/etc/x"
}
template { }
template "a" {
  builtin = "haproxy"
}
haproxy "x" {
}
haproxy {
  socket         = "admin.sock"
  replica_port   = 5000
}
log { level = "info" }
log { level = "warn" }
