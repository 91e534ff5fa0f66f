postgres {
  data_dir    = "/data"
  state_dir   = "/data/state"
  listen      = "0.0.0.0:5432"
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
api {
  listen    = "10.0.0.7:5432"
  advertise = "10.0.0.7:5432"
  tls { cert_file = "/cert" }
}
