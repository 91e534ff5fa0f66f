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

# service {
#   name = "pg"                         # the cluster's name: primary.pg.service.consul, replica.pg.service.consul
#   replica_max_delay = "1m"            # a replica further behind, or delayed by more, gets no reads (0: any)
#   replica_max_lag   = "64MB"          # likewise, in bytes of log (default: any)
# }

postgres {
  # bin_dir  = "/usr/lib/postgresql/15/bin"       # the data directory's version, or the newest
  data_dir = "/var/lib/pgsidecar/pg"
  # wal_dir  = "/srv/wal/pg"              # pg_wal of new data; existing data keep theirs
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
  # allow = ["10.0.0.0/8"]              # take changes from here only, and from the members
  # drills = true                       # anyone with the token may kill this server: pgsidecar drill live
  # ui = false                          # no page under /ui
  # tls {                               # on all members, or on none; new certificates count at once
  #   cert_file           = "/etc/pgsidecar/api.crt"
  #   key_file            = "/etc/pgsidecar/api.key"
  #   client_ca_file      = "/etc/pgsidecar/ca.crt"   # whose certificates may change something
  #   require_client_cert = true        # refuse all others, health checks too
  #   ca_file             = "/etc/pgsidecar/ca.crt"   # of the other members; default client_ca_file
  # }                                   # HAProxy's checks: check_ca_file, check_cert_file in the block haproxy
}

durability {
  mode     = "quorum"                   # or "async": commits wait for no standby
  standbys = 1                          # how many hold each acknowledged commit, besides the primary
  # strict = true                       # rather block commits than have fewer hold them
  # zones  = 2                          # each commit in two zones: the primary's, and another (tags { zone = "a" })
}

failover {
  # automatic        = true
  # failure_timeout  = "2s"             # silence after which a member is lost; in mode quorum, if its host answers
  # failure_timeout_min = "800ms"       # a host that takes no connection, or a hung server: lost after this at the earliest; "2s": never earlier
  # lease            = "5s"             # the same on all members
  # handover_timeout = "10s"
  # max_lag          = "16MB"           # mode async: who lacks more does not lead by itself (default: no bound)
  # refused_is_dead  = true             # false behind port maps, NAT or Kubernetes services: there a refusal proves nothing
}

# tags {                                # of this member; also: pgsidecar settings set tags.MEMBER.nosync=true
#   nofailover    = true                # never leads; or priority = 10: among equals the higher leads
#   nosync        = true                # commits never wait for it; or sync_priority = 10: the higher is a voter
#   noloadbalance = true                # gets no reads
#   clonefrom     = true                # new members copy from it
#   replicatefrom = "n2"                # follows that member instead of the primary
#   zone          = "a"                 # a tag of your own: /replica?tag_zone=a, and Consul's metadata
# }

# backup "main" {                       # the same on all members: pgsidecar help backup
#   engine = "pgbackrest"               # or command, pg_dump
#   repository {
#     path = "/srv/backups"             # or type = "s3" with options; the same for all members
#   }
#   retention {
#     full = 2                          # or days = 14
#   }
#   schedule {                          # minute, hour, day, month, weekday; UTC
#     full = "30 2 * * 0"
#     incr = "30 2 * * 1-6"
#     verify = "0 4 * * 0"              # restore the newest to a scratch folder, and look at it
#   }
# }

# clone {                               # where the data of a new or lost member come from: tried in turn
#   methods = ["backup", "basebackup"]  # the repository of the block backup, then a member; default: a member
#   basebackup {                        # how a member sends its data
#     max_rate   = "100M"               # a second
#     compress   = "lz4"                # on the way: gzip, lz4 or zstd, from PostgreSQL 15 on
#     checkpoint = "spread"             # the sender's disk has a quiet time, and the copy begins later; default: fast
#   }
# }

# bootstrap {                           # how a new cluster is founded, by its first member; later it has no meaning
#   initdb {
#     encoding        = "UTF8"
#     locale          = "C.UTF-8"       # default
#     locale_provider = "icu"           # or libc, or (PostgreSQL 17) builtin with builtin_locale
#     icu_locale      = "en-US"
#     checksums       = true
#     wal_segment_mb  = 4               # a promotion copies a whole one
#   }
#   from_backup {                       # in place of initdb
#     cluster = "pg-old"                # whose; default: this one's
#     to_time = "2026-03-01 12:00:00+01"  # or to_lsn, to_name, to_xid; default: the end
#   }
# }

# hook "vip" {                          # run when this member becomes it, as PostgreSQL's user
#   on      = ["primary", "replica", "stopped"]   # failover, blocked, unblocked, drill, backup, founded, before_promote, before_stop
#   command = ["/usr/local/bin/vip"]    # PGSIDECAR_EVENT, _ROLE, _TERM, _LEADER in its environment; all as JSON on its input
#   # user       = "root"
#   # timeout    = "10s"                # then it is killed, with all that it started
#   # on_failure = "abort"              # if before_promote fails, do not promote
# }

# notify "ops" {
#   on       = ["failover", "blocked", "unblocked"]
#   webhook  = "https://hooks.example.com/pg"      # or file("…"), if who knows it may send
#   # format   = "json"                 # or alertmanager, pagerduty, opsgenie
#   # key_file = "/etc/pgsidecar/notify.key"      # signs the body (X-Pgsidecar-Signature), or is the receiver's own key
# }

# trace {                               # spans of failovers, switchovers and backups, by OpenTelemetry (OTLP over HTTP)
#   endpoint = "http://127.0.0.1:4318"  # the collector; or env("OTEL_EXPORTER_OTLP_ENDPOINT", "")
#   # token_file = "/etc/pgsidecar/otel.token"    # shown to it as a bearer token
#   # timeout    = "5s"
# }

# log {
#   level  = "info"
#   format = "text"
# }
