# A cluster that follows another site's, found by its service in Consul.
cluster = "pg"
member  = "n1"

postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}

standby_of {
  service    = "pg"
  datacenter = "dc1"
  alone      = "closed"
  witness    = "dc3"
}
