# A PostgreSQL cluster on Nomad and Consul, driver raw_exec. `pgsidecar nomad job raw_exec`
# prints this file; every setting has its reason beside it.
#
# For Nomad 1.8 and later. It last ran on Nomad 1.11.1. `make test-nomad` runs it again where a Nomad
# of 1.8 or later is on PATH; without one it runs the older form (--for 1.6).
#
# Once, before the first run. A volume on each client that may have a member, in its
# agent's configuration (without one, `nomad job status` says "missing compatible host
# volumes", and what runs is left alone):
#   client { host_volume "pgdata" { path = "/var/lib/pgsidecar" } }
# The passwords, which the job's own identity may read (without them the task waits, and
# `nomad alloc status` says "Missing: nomad.var.block"):
#   nomad var put nomad/jobs/pg superuser="$(openssl rand -hex 16)" replication="$(openssl rand -hex 16)" api="$(openssl rand -hex 16)"
# and where Consul has ACLs:
#   nomad setup consul
#   pgsidecar files policy -cluster pg | consul acl policy create -name pgsidecar-pg -rules -
#   consul acl role update -id "$(consul acl role read -name nomad-default-tasks -format=json | jq -r .ID)" -policy-name pgsidecar-pg
# Then:
#   nomad job run raw_exec.nomad.hcl
#   dig +short -p 8600 primary.pg.service.consul

variable "job" {
  type        = string
  default     = "pg"
  description = "The job's name; the cluster and the service in Consul are called so too."
}

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "node_pool" {
  type    = string
  default = "default"
}

variable "count" {
  type        = number
  default     = 3
  description = "Members. Two of three must be up for writes in quorum mode; an even number tolerates no more than one less."
}

variable "command" {
  type        = string
  default     = "/usr/local/bin/pgsidecar"
  description = "pgsidecar on the clients. Give each version a path of its own: a rolling update is then a change of this."
}

variable "bin_dir" {
  type        = string
  default     = "/usr/lib/postgresql/15/bin"
  description = "PostgreSQL's programs on the clients: the same version everywhere."
}

variable "data_dir" {
  type        = string
  default     = "/var/lib/pgsidecar/pg"
  description = "The data directory, in the host volume. raw_exec mounts nothing, so the path is the host's."
}

variable "volume" {
  type        = string
  default     = "pgdata"
  description = "The host volume's name on the clients."
}

variable "hba" {
  type        = list(string)
  default     = ["host all all 10.0.0.0/8 scram-sha-256", "host all all 172.16.0.0/12 scram-sha-256", "host all all 192.168.0.0/16 scram-sha-256"]
  description = "Who may connect: lines of pg_hba.conf."
}

variable "parameters" {
  type        = map(string)
  default     = { max_connections = "200", shared_buffers = "512MB" }
  description = "PostgreSQL's parameters. A quarter of the memory for shared_buffers is a good beginning."
}

variable "standbys" {
  type        = number
  default     = 1
  description = "How many replicas hold each commit before it is acknowledged. 0: none, and a failover may lose the newest."
}

variable "consul" {
  type        = string
  default     = "127.0.0.1:8500"
  description = "Consul's agent as the task reaches it: the node's own. Several, separated by commas, are tried in turn."
}

variable "cpu" {
  type    = number
  default = 1000
}

variable "memory" {
  type    = number
  default = 2048
}

variable "kill_timeout" {
  type        = string
  default     = "30s"
  description = "From the signal to the kill. Nomad's clients cut it to their max_kill_timeout, 30s unless it is set."
}

variable "min_healthy_time" {
  type        = string
  default     = "10s"
  description = "How long an updated member must be ready before the next one is touched."
}

variable "vault_path" {
  type        = string
  default     = ""
  description = "Path of a KV 2 secret in Vault with superuser, replication and api, such as secret/data/pg; empty: Nomad's variables."
}

variable "rack" {
  type        = string
  default     = "$${node.datacenter}"
  description = "What members are spread over, such as $${meta.rack}."
}

variable "one_machine" {
  type        = bool
  default     = false
  description = "Allow two members on one node: for trying it out only."
}

job "pg" {
  id          = var.job
  name        = var.job
  type        = "service"
  datacenters = var.datacenters
  node_pool   = var.node_pool

  # Before applications: when memory or CPU are short, the database stays.
  priority = 80

  group "pg" {
    count = var.count

    # Two members on one node would be lost together.
    dynamic "constraint" {
      for_each = var.one_machine ? [] : [1]
      content {
        operator = "distinct_hosts"
        value    = "true"
      }
    }
    # As should be two of the same rack or room, where there is a choice.
    spread {
      attribute = var.rack
    }

    # One member at a time, and the next only when the last one streams and has
    # caught up (the check "ready" below). Nomad follows the allocations' index,
    # lowest first, and knows no primary: that hands over when its turn comes, to a
    # member that has been updated already, and so an update moves it once. Only at
    # index 0 there is none yet: it goes to the highest index, and from there, when
    # that is updated last, a second time. To move it before the update is no remedy,
    # but the same second switchover at a time that you choose:
    #   nomad alloc exec ALLOCATION sh -c 'pgsidecar switchover -config "$NOMAD_TASK_DIR/pg.hcl"'
    # canary is 0: there is no data directory for one more member. Nothing is
    # reverted by itself, because going back is one more round of the same, which a
    # person should ask for. PostgreSQL's parameters need no update of the job:
    # pgsidecar settings set changes them for all members, with one switchover at most.
    update {
      max_parallel      = 1
      canary            = 0
      health_check      = "checks"
      min_healthy_time  = var.min_healthy_time
      healthy_deadline  = "1h" # a new member may have to clone hundreds of gigabytes
      progress_deadline = "2h"
      auto_revert       = false
    }
    # Draining nodes: the same, one at a time.
    migrate {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = var.min_healthy_time
      healthy_deadline = "1h"
    }

    # A client that Nomad does not hear is not a member that is gone: its guard
    # decides whether it may serve, and the others take over by the lock. A
    # replacement would be a member with an empty data directory on another node,
    # so there is none for a day, and the old allocation is kept when it is back.
    # Until then pgsidecar's cluster runs with one less. A node that is lost for
    # good: nomad node purge, or nomad job eval -force-reschedule.
    disconnect {
      lost_after = "24h"
      replace    = false
      reconcile  = "keep_original"
    }

    # In place, soon, and for ever: whatever ended the member, its data are here.
    restart {
      attempts         = 10
      interval         = "10m"
      delay            = "2s"
      mode             = "delay"
      render_templates = false
    }
    # To another node only by a person's decision, or a drain: the data do not
    # move.
    reschedule {
      attempts  = 0
      unlimited = false
    }

    # PostgreSQL and the API listen on all addresses of the network, at the ports
    # that Nomad chooses; clients find them in Consul. Fixed ports (static =
    # 5432) are good too, where only one member is on a node.
    network {
      port "postgres" {}
      port "api" {}
    }

    # Only on nodes that have the volume. raw_exec mounts nothing; data_dir names
    # its path.
    volume "data" {
      type   = "host"
      source = var.volume
    }

    # The members themselves register primary.<job>.service.consul and replica.…:
    # Nomad knows no roles, and would take a name away only after its delays. This
    # service is for Nomad's own use, and for Prometheus (/metrics).
    service {
      name = "${var.job}-agent"
      port = "api"
      tags = ["metrics"]

      # Updates and drains wait for this one: the primary, or a replica that
      # streams and is less than 1 MiB behind.
      check {
        name     = "ready"
        type     = "http"
        path     = "/readiness"
        interval = "2s"
        timeout  = "1s"
      }
      # For people. It restarts nothing (no check_restart): pgsidecar knows more
      # about its server than a check, and a member that waits must not be killed.
      check {
        name      = "alive"
        type      = "http"
        path      = "/liveness"
        interval  = "10s"
        timeout   = "2s"
        on_update = "ignore"
      }
    }

    task "pgsidecar" {
      driver = "raw_exec"

      # As root, so that the guard may lock its memory; PostgreSQL runs as postgres.
      user = "root"

      # The signal is a handover, and there must be time for it: shutdown_delay
      # stays 0, for it would only keep a primary that has begun to leave.
      kill_signal  = "SIGTERM"
      kill_timeout = var.kill_timeout

      config {
        command = var.command
        args    = ["run", "-config", "${NOMAD_TASK_DIR}/pg.hcl"]
      }

      # A token of this task's own (CONSUL_TOKEN, secrets/consul_token), where
      # Consul has ACLs and Nomad's servers have consul.task_identity.
      consul {}

      dynamic "vault" {
        for_each = var.vault_path == "" ? [] : [1]
        content {
          # Files, which are read again: no restart for a new token.
          change_mode = "noop"
        }
      }

      env {
        # A new member is called as its node.
        PGSIDECAR_NODE = "${node.unique.name}"
        PGSIDECAR_DATA_DIR = var.data_dir
        CONSUL_HTTP_ADDR = var.consul
        # Nomad does not tell it, and pgsidecar says if it is too short.
        PGSIDECAR_KILL_TIMEOUT = var.kill_timeout
      }

      # All that is configured: the rest comes from the allocation. Read again
      # after a change (SIGHUP); what needs a restart is said in the log.
      template {
        destination   = "${NOMAD_TASK_DIR}/pg.hcl"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = <<-HCL
          postgres {
            bin_dir    = "${var.bin_dir}"
            hba        = ${jsonencode(var.hba)}
            parameters = ${jsonencode(var.parameters)}
          }
          durability {
            ${var.standbys == 0 ? "mode = \"async\"" : "standbys = ${var.standbys}"}
          }
          log {
            format = "json"
          }
        HCL
      }

      # One secret in each file: pgsidecar finds them by name in secrets/, and
      # reads them again when they are needed. One that is missing makes an empty
      # file, which pgsidecar refuses and names. (Without the inner "with" Nomad
      # would write words of its own, and they would be the password.)
      dynamic "template" {
        for_each = { superuser = "superuser.password", replication = "replication.password", api = "api.token" }
        content {
          destination = "${NOMAD_SECRETS_DIR}/${template.value}"
          perms       = "0600"
          change_mode = "noop"
          data        = var.vault_path == "" ? "{{ with nomadVar \"nomad/jobs/${var.job}\" }}{{ with .${template.key} }}{{ . }}{{ end }}{{ end }}" : "{{ with secret \"${var.vault_path}\" }}{{ with .Data.data.${template.key} }}{{ . }}{{ end }}{{ end }}"
        }
      }

      # CPU is a share, not a limit. Memory is a limit: beyond it the kernel kills
      # the server, and a failover follows. Leave room above shared_buffers for
      # max_connections times work_mem.
      resources {
        cpu    = var.cpu
        memory = var.memory
      }

      # PostgreSQL's own log is beside the data; this is pgsidecar's.
      logs {
        max_files     = 5
        max_file_size = 10
      }
    }
  }
}
