backup "main" {
  engine   = "pgbackrest"
  from     = "replica"
  compress = "zst"
  repository {
    type         = "s3"
    path         = "/pg"
    key_file     = "secrets/token"
    options      = { s3-bucket = "b", s3-region = "r" }
    secret_files = { s3-key-secret = "secrets/token" }
  }
  retention { days = 14 }
  schedule {
    full   = "30 2 * * 0"
    incr   = "CRON_TZ=Europe/Berlin 30 2 * * 1-6"
    verify = "@weekly"
  }
}

backup "rows" {
  engine    = "pg_dump"
  databases = ["app"]
  format    = "custom"
  repository { path = "/srv/dumps" }
  schedule { dump = "@daily" }
}

postgres {
  superuser   { password = env("REPLICATION_PASSWORD") }
  replication { password = env("REPLICATION_PASSWORD") }
}

clone { methods = ["backup", "basebackup"] }

bootstrap {
  from_backup {
    cluster = "old"
    label   = "20260228-023000F"
    to_time = "2026-03-01 12:00:00+01"
  }
}
