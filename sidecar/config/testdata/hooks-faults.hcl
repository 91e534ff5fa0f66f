hook "nothing" { on = "primary" }
hook "when" { command = ["/usr/local/bin/x"] }
hook "word" {
  on         = ["primary", "master"]
  command    = "vip.sh"
  on_failure = "abort"
}
notify "ops" {
  on      = ["before_stop"]
  webhook = "https://user:password@hooks.example.com/x"
}
notify "pager" {
  on      = ["blocked"]
  webhook = "ftp://events.example.com"
  format  = "pagerduty"
  timeout = "0s"
}

postgres {
  superuser   { password = env("REPLICATION_PASSWORD") }
  replication { password = env("REPLICATION_PASSWORD") }
}
