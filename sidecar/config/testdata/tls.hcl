cluster = "pg"
member  = "n1"
postgres {
  listen = "10.0.0.1:5432"
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
  tls {
    cert_file = "pg.crt"
    require   = true
  }
  parameters = { ssl = "on" }
}
api {
  listen = "10.0.0.1:8008"
  tls {
    ca_file             = "/etc/ca.crt"
    require_client_cert = true
  }
}
