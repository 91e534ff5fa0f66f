postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
consul { session_ttl = "5s" }
failover {
  failure_timeout = "10ms"
  lease           = "1m"
  max_lag         = "16"
  refused_is_dead = "no"
}
