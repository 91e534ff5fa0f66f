backup "nothing" {
}

backup "main" {
  engine    = "pgbackrest"
  form      = "replica"
  processes = "two"
  databases = ["app"]
  format    = "custom"
  repository { path = "repo" }
  retention {
    full = 2
    days = 14
  }
  schedule {
    full   = "at night"
    verify = "0 25 * * *"
    dump   = "@daily"
  }
}

backup "walg" {
  engine = "command"
  format = "xml"
  commands {
    archive = "wal-g wal-push {path}"
    push    = ["x"]
  }
}

backup "none" {
  engine = "command"
}

backup "rows" {
  engine = "pg_dump"
  repository { path = "/srv/dumps" }
  schedule { full = "@daily" }
  commands { list = ["x"] }
}

postgres {
  superuser   { password = env("REPLICATION_PASSWORD") }
  replication { password = env("REPLICATION_PASSWORD") }
  parameters = { archive_command = "false" }
}

bootstrap {
  from_backup {
    to_time = "yesterday"
    to_lsn  = "0/3000148"
    to_name = "here"
    to_xid  = 7
  }
}

clone { methods = ["backup", "rsync", "backup"] }
