postgres {
  data_dir  = "/srv/data"
  state_dir = "/srv/state"
  listen    = "10.0.0.1:5432"
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
  parameters = {
    unix_socket_directories = "/var/run/postgresql, /srv/data"
  }
}
