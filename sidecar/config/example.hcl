# One member of a highly available PostgreSQL on Consul. Check it with
#   pgsidecar config validate -config pg.hcl
# and run it with
#   pgsidecar run -config pg.hcl
# What is commented out shows its default.

cluster = "pg"
# member = "n1"                         # the host's name

consul {
  address = ["127.0.0.1:8500"]          # tried in turn; the local agent first
  # token_file  = "/etc/pgsidecar/consul.token"   # or CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_TOKEN
  # prefix      = "pgsidecar"
  # session_ttl = "10s"
}

service {
  name = "pg"                           # primary.pg.service.consul, replica.pg.service.consul
}

postgres {
  # bin_dir  = "/usr/lib/postgresql/15/bin"       # the data directory's version, or the newest
  data_dir = "/var/lib/pgsidecar/pg"
  # user     = "postgres"
  listen   = "{{ GetPrivateIP }}:5432"  # a go-sockaddr template, or an address
  # advertise = listen                  # where members and clients find it

  superuser {
    name          = "postgres"
    password_file = "/etc/pgsidecar/superuser.password"
  }
  replication {
    name          = "replicator"
    password_file = "/etc/pgsidecar/replication.password"
  }

  parameters = {
    max_connections = 200
  }
  hba = [
    "host all all 10.0.0.0/8 scram-sha-256",
  ]
}

api {
  listen = "{{ GetPrivateIP }}:8008"    # health, status, and the members' streams
  # token_file = "/etc/pgsidecar/api.token"   # without it nothing can be changed through it
}

durability {
  mode     = "quorum"                   # or "async": nobody is waited for
  standbys = 1                          # how many hold each acknowledged commit, besides the primary
  # strict = true                       # rather block commits than have fewer hold them
}

failover {
  # automatic        = true
  # failure_timeout  = "2s"
  # lease            = "5s"             # the same on all members
  # handover_timeout = "10s"
}

# log {
#   level  = "info"
#   format = "text"
# }
