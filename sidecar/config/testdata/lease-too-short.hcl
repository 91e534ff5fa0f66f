postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
failover {
  failure_timeout  = "4s"
  lease            = "5s"
  handover_timeout = "100ms"
}
