postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
cluster = "My_Cluster"
member  = "N1"
service {
  name = "pg.prod"
  tags = ["primary"]
  meta = { term = "1" }
}
consul {
  address = ["127.0.0.1", "unix://sock", "http://consul:8500/"]
  prefix  = "/pgsidecar/"
}
tags {
  nofailover    = true
  priority      = 3
  replicatefrom = "N1"
}
