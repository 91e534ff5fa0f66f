postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
haproxy {
  agent_socket  = "/run/haproxy/agent.sock"
}
template "a" {
  source      = "/etc/a.tmpl"
  destination = "/etc/haproxy/haproxy.cfg"
  reload      = "haproxy"
}
