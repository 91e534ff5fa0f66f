# An application, pgbench, that finds the cluster by DNS.
# `pgsidecar nomad job app-dns --for 1.6` prints this file. Take from it what your own job needs:
# the block that names the servers, and target_session_attrs.
#
# Each client's resolver must ask Consul for .consul (Consul documentation,
# Forward DNS). A name has no port: the members' ports must be fixed, and given
# here. Behind HAProxy that is not so: connect to its fixed port instead.
#
# For Nomad 1.6 and 1.7, whose templates ask Consul with the token of Nomad's client.
# `make test-nomad` validates and plans it on Nomad 1.6.1.

variable "job" {
  type    = string
  default = "pg-app"
}

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "driver" {
  type        = string
  default     = "raw_exec"
  description = "raw_exec or exec."
}

variable "count" {
  type    = number
  default = 1
}

variable "service" {
  type        = string
  default     = "pg"
  description = "The cluster's service in Consul."
}

variable "variables" {
  type        = string
  default     = "nomad/jobs/pg-app"
  description = "Path of the Nomad variables with the role's password, as item password."
}

variable "port" {
  type        = number
  default     = 5432
  description = "The members' fixed port."
}

variable "domain" {
  type    = string
  default = "service.consul"
}

variable "user" {
  type    = string
  default = "app"
}

variable "database" {
  type    = string
  default = "postgres"
}

variable "pgbench" {
  type    = string
  default = "/usr/lib/postgresql/15/bin/pgbench"
}

variable "clients" {
  type    = number
  default = 4
}

job "pg-app" {
  id          = var.job
  name        = var.job
  type        = "service"
  datacenters = var.datacenters

  group "app" {
    count = var.count

    # pgbench ends at a failover, as a program without a connection pool may; it
    # is started again at once, and for ever.
    restart {
      attempts = 100
      interval = "10m"
      delay    = "1s"
      mode     = "delay"
    }

    task "pgbench" {
      driver = var.driver
      config {
        command = "/bin/sh"
        args    = ["${NOMAD_TASK_DIR}/run.sh"]
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/pgpass"
        perms       = "0600"
        change_mode = "noop" # libpq reads it at each connection
        data        = <<-PGPASS
          {{ with nomadVar "${var.variables}" }}*:*:*:${var.user}:{{ .password }}{{ end }}
        PGPASS
      }

      env {
        PGHOST               = "primary.${var.service}.${var.domain}"
        PGPORT               = var.port
        PGUSER               = var.user
        PGDATABASE           = var.database
        PGPASSFILE           = "${NOMAD_SECRETS_DIR}/pgpass"
        PGTARGETSESSIONATTRS = "read-write"
        # Of each server, so that a dead one is passed over soon.
        PGCONNECT_TIMEOUT = "2"
      }

      template {
        destination = "${NOMAD_TASK_DIR}/run.sh"
        change_mode = "restart"
        data        = <<-SH
          connect() {
            ${var.pgbench} "$@"
          }
          connect -n -t 1 -f /dev/stdin <<'SQL' >/dev/null 2>&1 || connect -i -q
          SELECT 1 FROM pgbench_accounts LIMIT 1;
          SQL
          while :; do
            connect -n -c ${var.clients} -T 3600 -P 10 --max-tries=100
            sleep 1
          done
        SH
      }
      resources {
        cpu    = 200
        memory = 64
      }
    }
  }
}
