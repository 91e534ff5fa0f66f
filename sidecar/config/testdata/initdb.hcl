cluster = "pg"
member  = "n1"

postgres {
  bin_dir   = "/usr/lib/postgresql/15/bin"
  data_dir  = "/var/lib/pgsidecar/n1"
  wal_dir   = "/srv/wal/n1"
  advertise = "10.0.0.7:5432"
  superuser { password = env("REPLICATION_PASSWORD") }
  replication { password = env("REPLICATION_PASSWORD") }
}

api { token = file("secrets/token") }

peers { key = env("PEERS_KEY") }

bootstrap {
  initdb {
    encoding        = "LATIN1"
    locale          = "de_DE"
    locale_provider = "icu"
    icu_locale      = "de-DE"
    checksums       = false
    wal_segment_mb  = 16
  }
}

clone {
  basebackup {
    max_rate   = "100M"
    compress   = "zstd"
    checkpoint = "spread"
  }
}
