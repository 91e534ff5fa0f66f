postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
member = 7
consul {
  address     = 8500
  session_ttl = 10
}
service {
  tags = ["a", 1]
  meta = ["a"]
}
durability {
  mode     = quorum
  standbys = "one"
  strict   = "yes"
  max_voters = 1.5
}
failover {
  lease            = "5"
  failure_timeout  = "-2s"
  handover_timeout = null
  automatic        = 1
}
tags { priority = -1 }
template "t" {
  builtin     = "haproxy"
  destination = "/t"
  perms       = "999"
}
log {
  level  = "verbose"
  format = "xml"
}
