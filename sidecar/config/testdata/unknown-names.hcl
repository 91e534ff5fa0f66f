clutser = "pg"
consul {
  adress = ["127.0.0.1:8500"]
  tokne_file = "secrets/token"
  frobnicate = 1
}
durabilty {
  mode = "quorum"
}
whatever { }
failover = { lease = "5s" }
cluster { }
log {
  level { }
}
tags {
  sub { }
}
postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
