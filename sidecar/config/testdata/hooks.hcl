hook "vip" {
  on      = ["primary", "replica", "stopped"]
  command = ["/usr/local/bin/vip", "10.0.0.100"]
  user    = "root"
  timeout = "3s"
}
hook "fencing" {
  on         = "before_promote"
  command    = ["/usr/local/bin/fence-old-primary"]
  on_failure = "abort"
}
notify "pager" {
  on       = ["failover", "blocked", "unblocked"]
  webhook  = "https://events.pagerduty.com/v2/enqueue"
  format   = "pagerduty"
  key_file = "secrets/token"
}

postgres {
  superuser   { password = env("REPLICATION_PASSWORD") }
  replication { password = env("REPLICATION_PASSWORD") }
}
