# consul-template's configuration for the files beside it. Changes are taken up at
# once: leave out `wait`, whose seconds are seconds of outage.
max_stale = "2s"

template {
  source      = "/etc/pgsidecar/haproxy.state.ctmpl"
  destination = "/run/haproxy/pg.state"
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
