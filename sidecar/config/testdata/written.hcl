cluster = "pg"
member  = "n1"
consul {
  address    = "https://127.0.0.1:8501"
  token      = env("PEERS_KEY")
  datacenter = "dc1"
  tls {
    ca_file     = "/etc/consul/ca.pem"
    cert_file   = "/etc/consul/member.pem"
    key_file    = "/etc/consul/member.key"
    server_name = "server.dc1.consul"
  }
}
postgres {
  ident        = ["cert /^(.*)$ \\1"]
  stop_timeout = "10s"
  superuser {
    name          = "admin"
    password_file = "secrets/superuser"
  }
  replication {
    name          = "copy"
    password_file = "secrets/superuser"
  }
}
api {
  listen     = "10.0.0.7:8008"
  advertise  = "10.0.0.8:8008"
  token_file = "secrets/token"
  drills     = true
  allow      = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]
}
peers { key_file = "secrets/token" }
tags { nofailover = true }
template "owned" {
  builtin     = "haproxy.cfg"
  destination = "/etc/haproxy/haproxy.cfg"
  user        = "haproxy"
  group       = "haproxy"
}
haproxy {
  socket              = "/run/haproxy/admin.sock"
  agent_socket        = "/run/haproxy/agent.sock"
  bind                = "10.0.0.7"
  primary_port        = 5010
  replica_port        = 5011
  stats_port          = 5012
  primary_takes_reads = true
  maxconn             = 500
  connect_timeout     = "2s"
  queue_timeout       = "3s"
  idle_timeout        = "4s"
  global              = ["nbthread 2"]
  check_ca_file       = "/etc/pgsidecar/ca.crt"
  check_cert_file     = "/etc/pgsidecar/check.pem"
}
pgbouncer {
  address       = "127.0.0.1:6432"
  user          = "console"
  password_file = "secrets/token"
}
backup "programs" {
  engine    = "command"
  max_lag   = "1m"
  processes = 4
  format    = "wal-g"
  commands {
    archive = ["wal-g", "wal-push", "{path}"]
    fetch   = ["wal-g", "wal-fetch", "{name}", "{path}"]
    backup  = ["wal-g", "backup-push", "{data}"]
    list    = ["wal-g", "backup-list"]
    restore = ["wal-g", "backup-fetch", "{target}", "{label}"]
  }
  repository { options = { AWS_REGION = "eu" } }
  retention { full = 3 }
}
notify "ops" {
  on      = "failover"
  webhook = "https://hooks.example.com/pg"
  format  = "alertmanager"
}
