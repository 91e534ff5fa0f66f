cluster = "pg"
member  = "n1"

postgres {
  bin_dir   = "/usr/lib/postgresql/15/bin"
  data_dir  = "/var/lib/pgsidecar/n1"
  advertise = "10.0.0.7:5432"
  superuser { password = env("REPLICATION_PASSWORD") }
  replication { password = env("REPLICATION_PASSWORD") }
}

api { token = file("secrets/token") }

peers { key = env("PEERS_KEY") }

bootstrap {
  initdb {
    encoding       = "UTF8 --auth=trust'"
    locale_provider = "icu"
    builtin_locale = "C"
    wal_segment_mb = 5
  }
}
