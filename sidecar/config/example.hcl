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
  # tls {                               # of addresses such as https://127.0.0.1:8501; read at each connection
  #   ca_file   = "/etc/pgsidecar/consul-ca.crt"
  #   cert_file = "/etc/pgsidecar/consul.crt"     # where Consul asks for one
  #   key_file  = "/etc/pgsidecar/consul.key"
  # }
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

  # tls {                               # read again at each reload; absolute paths
  #   cert_file = "/etc/pgsidecar/postgres.crt"
  #   key_file  = "/etc/pgsidecar/postgres.key"   # for PostgreSQL's user alone
  #   ca_file   = "/etc/pgsidecar/ca.crt"
  #   require   = true                  # between members: TLS only, names checked; when all have the rest
  # }

  parameters = {
    max_connections = 200
  }
  hba = [
    "host all all 10.0.0.0/8 scram-sha-256",
  ]
}

api {
  listen = "{{ GetPrivateIP }}:8008"    # health, status, and the members' streams
  # token_file = "/etc/pgsidecar/api.token"   # without it, or a client's certificate, nothing can be changed
  # drills = true                       # whoever has the token may kill this server: pgsidecar drill live
  # tls {                               # on all members, or on none; new certificates count at once
  #   cert_file           = "/etc/pgsidecar/api.crt"
  #   key_file            = "/etc/pgsidecar/api.key"
  #   client_ca_file      = "/etc/pgsidecar/ca.crt"   # whose certificates may change something
  #   require_client_cert = true        # refuse all others, health checks too
  #   ca_file             = "/etc/pgsidecar/ca.crt"   # of the other members; default client_ca_file
  # }                                   # HAProxy's checks: check_ca_file, check_cert_file in the block haproxy
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
