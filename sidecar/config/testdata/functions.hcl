postgres {
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
}
consul {
  prefix = env("UNSET")
  datacenter = envv("DC")
  address = [file("missing.txt")]
}
api { listen = "{{ GetPublicIP }}:8008" }
service { name = sockaddr("Bogus") }
failover { lease = env("REPLICATION_PASSWORD") }
