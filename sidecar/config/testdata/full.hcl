cluster = "pg"
member  = "n1"
consul {
  address     = ["127.0.0.1:8500", "https://consul.example.com:8501"]
  token_file  = "secrets/token"
  prefix      = "pgsidecar"
  session_ttl = "15s"
  tls { ca_file = "/etc/consul/ca.pem" }
}
service {
  name = "pg"
  tags = ["europe"]
  meta = { rack = "r1" }
  replica_max_lag   = "64MB"
  replica_max_delay = "30s"
}
postgres {
  bin_dir   = "/usr/lib/postgresql/15/bin"
  data_dir  = "/var/lib/pgsidecar/n1"
  user      = "postgres"
  listen    = "0.0.0.0:5432"
  superuser {
    name          = "postgres"
    password_file = "secrets/superuser"
  }
  replication {
    name     = "replicator"
    password = env("REPLICATION_PASSWORD")
  }
  tls {
    cert_file = "/etc/pgsidecar/pg.crt"
    key_file  = "/etc/pgsidecar/pg.key"
    ca_file   = "/etc/pgsidecar/ca.crt"
    require   = true
  }
  parameters = { shared_buffers = "4GB", max_connections = 200, log_checkpoints = true }
  hba        = ["host all all 10.0.0.0/8 scram-sha-256", file("secrets/hba")]
}
api {
  listen = "${sockaddr("GetPrivateIP")}:8008"
  token  = file("secrets/token")
  tls {
    cert_file           = "/etc/pgsidecar/api.crt"
    key_file            = "/etc/pgsidecar/api.key"
    client_ca_file      = "/etc/pgsidecar/clients.crt"
    require_client_cert = true
    ca_file             = "/etc/pgsidecar/ca.crt"
  }
}
peers { key = env("PEERS_KEY") }
durability {
  mode       = "quorum"
  standbys   = 2
  strict     = true
  max_voters = 4
  zones      = 3
}
failover {
  automatic        = false
  failure_timeout  = "1500ms"
  failure_timeout_min = "900ms"
  lease            = "4s"
  handover_timeout = "20s"
  agent_timeout    = "1m"
  max_lag          = "16MB"
  refused_is_dead  = false
}
tags {
  priority      = 10
  nosync        = true
  noloadbalance = true
  clonefrom     = true
  replicatefrom = "n2"
  sync_priority = 2
  zone          = "a"
}
template "haproxy" {
  builtin     = "haproxy"
  destination = "/etc/haproxy/haproxy.cfg"
  check       = ["haproxy", "-c", "-f", "{}"]
  command     = ["systemctl", "reload", "haproxy"]
  perms       = "0644"
}
template "more" {
  source      = "/etc/pgsidecar/more.tmpl"
  destination = "/etc/haproxy/more.cfg"
  reload      = "haproxy"
}
template "mine" {
  source      = "/etc/pgsidecar/mine.tmpl"
  destination = "/etc/mine.conf"
  timeout     = "5s"
}
haproxy {
  socket    = "/run/haproxy/admin.sock"
  master_socket = "/run/haproxy-master.sock"
  resolvers = ["127.0.0.1:8600", "[::1]:8600"]
}
pgbouncer {
  address  = "127.0.0.1:6432"
  password = env("PGBOUNCER_PASSWORD", "none")
  database = "app"
}
log {
  level  = "debug"
  format = "json"
}
