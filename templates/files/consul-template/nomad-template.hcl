# Blocks for a Nomad task that runs HAProxy as `haproxy -W -f ${NOMAD_TASK_DIR}/haproxy.cfg`.
# In haproxy.cfg.ctmpl set $dir and $state to
#   {{ $dir := env "NOMAD_ALLOC_DIR" }}{{ $state := printf "%s/pg.state" (env "NOMAD_TASK_DIR") }}
# What changes here are members, not roles, so Nomad's own delay (wait, 5 s at least
# unless set) costs nothing; for PgBouncer's file, which names the primary, it would.
template {
  source      = "local/haproxy.state.ctmpl"
  destination = "local/pg.state"
  change_mode = "noop"
}

template {
  source        = "local/haproxy.cfg.ctmpl"
  destination   = "local/haproxy.cfg"
  change_mode   = "signal"
  change_signal = "SIGUSR2"

  wait {
    min = "1s"
    max = "5s"
  }
}
