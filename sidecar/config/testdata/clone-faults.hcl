postgres {
  data_dir = "/srv/pg"
  wal_dir  = "/srv/pg/wal"
  superuser   { password = env("REPLICATION_PASSWORD") }
  replication { password = env("REPLICATION_PASSWORD") }
}

clone {
  methods = ["backup", "basebackup"]
  basebackup {
    max_rate   = "100 MB/s"
    compress   = "bzip2"
    checkpoint = "never"
  }
}
