postgres {
  superuser   { password = env("REPLICATION_PASSWORD") }
  replication { password = env("REPLICATION_PASSWORD") }
}

clone { methods = ["backup", "basebackup"] }
