postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
haproxy {
  master_socket = "master.sock"
}
