postgres {
  data_dir    = "/data"
  listen      = "fd00::2:5432"
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
api {
  listen = "[fd00::2]:8008"
}
