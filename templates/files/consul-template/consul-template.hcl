# consul-template's configuration for the files beside it. Changes are taken up at
# once: leave out `wait`, whose seconds are seconds of outage.
max_stale = "2s"

# Not below /run: HAProxy reads it when the machine starts, before it could be written.
template {
  source      = "/etc/pgsidecar/haproxy.state.ctmpl"
  destination = "/etc/haproxy/pg.state"
}

template {
  source      = "/etc/pgsidecar/haproxy.cfg.ctmpl"
  destination = "/etc/haproxy/haproxy.cfg"
  command     = "haproxy -c -f /etc/haproxy/haproxy.cfg && systemctl reload haproxy"
}

template {
  source      = "/etc/pgsidecar/pgbouncer.ini.ctmpl"
  destination = "/etc/pgbouncer/pgsidecar.ini"
  command     = "systemctl reload pgbouncer"
}
