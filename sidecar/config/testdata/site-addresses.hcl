# A cluster that follows another site's, found by addresses.
cluster = "pg"
member  = "n1"

postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}

standby_of {
  addresses = ["10.1.0.1:5432", "10.1.0.2:5432"]
  apis      = ["10.1.0.1:8008"]
  alone     = "open"
}
