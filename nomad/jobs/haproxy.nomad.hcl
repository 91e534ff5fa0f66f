# HAProxy in front of a cluster, as a service job. `pgsidecar nomad job haproxy` prints this file.
# A few on some nodes, found by haproxy.<service>.service.consul: for applications
# outside of Nomad, or where one on each node is too much.
#
# `pgsidecar proxy` writes haproxy.cfg, and switches HAProxy by its socket within
# milliseconds; while it is away HAProxy relies on its own checks of the members.
#
# For Nomad 1.8 and later. It last ran on Nomad 1.11.1. `make test-nomad` runs it again where a
# Nomad of 1.8 or later is on PATH; without one it runs the older form (--for 1.6).

variable "job" {
  type    = string
  default = "pg-haproxy"
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
  type    = number
  default = 2
}

variable "driver" {
  type        = string
  default     = "raw_exec"
  description = "raw_exec or exec."
}

variable "cluster" {
  type        = string
  default     = "pg"
  description = "The cluster: the job of its members."
}

variable "service" {
  type        = string
  default     = "pg"
  description = "The cluster's service in Consul."
}

variable "consul" {
  type    = string
  default = "127.0.0.1:8500"
}

variable "command" {
  type    = string
  default = "/usr/local/bin/pgsidecar"
}

variable "haproxy" {
  type    = string
  default = "/usr/sbin/haproxy"
}

variable "primary_port" {
  type    = number
  default = 5000
}

variable "replica_port" {
  type    = number
  default = 5001
}

variable "bind" {
  type        = string
  default     = "0.0.0.0"
  description = "Where HAProxy listens. TLS to the servers passes through it."
}

job "pg-haproxy" {
  id          = var.job
  name        = var.job
  type        = "service"
  datacenters = var.datacenters
  node_pool   = var.node_pool

  # As the database itself: without this nobody reaches it.
  priority = 80

  group "haproxy" {
    count = var.count

    # Two on one node would want the same port, and be lost together.
    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    # One after the other: an application with two addresses always has one.
    update {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "5s"
      healthy_deadline = "2m"
    }
    migrate {
      max_parallel     = 1
      min_healthy_time = "5s"
    }
    restart {
      attempts = 10
      interval = "5m"
      delay    = "1s"
      mode     = "delay"
    }
    # It keeps nothing: a client that Nomad does not hear may have served on all
    # the time, so another is started, and the first one stays if it is back.
    disconnect {
      lost_after = "6h"
      replace    = true
      reconcile  = "best_score"
    }

    network {
      port "primary" {
        static = var.primary_port
      }
      port "replica" {
        static = var.replica_port
      }
    }

    service {
      name = "${var.service}-haproxy"
      port = "primary"
      # HAProxy takes connections. Whether there is a primary is not its own health:
      # while there is none, clients wait in its queue.
      check {
        type     = "tcp"
        interval = "5s"
        timeout  = "2s"
      }
    }

    # Starts first and ends last, so that haproxy.cfg is there, and HAProxy is
    # switched until its last connection has ended.
    task "pgsidecar" {
      driver = var.driver
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }
      config {
        command = var.command
        args    = ["proxy", "-config", "${NOMAD_TASK_DIR}/proxy.hcl"]
      }
      consul {}
      env {
        CONSUL_HTTP_ADDR = var.consul
      }

      template {
        destination = "${NOMAD_TASK_DIR}/proxy.hcl"
        change_mode = "restart"
        data        = <<-HCL
          cluster = "${var.cluster}"
          service {
            name = "${var.service}"
          }
          haproxy {
            # Short: with what HAProxy adds for a while, a socket's path may have 107
            # bytes, of which an allocation's directory takes most.
            socket        = "{{ env "NOMAD_ALLOC_DIR" }}/h.sock"
            agent_socket  = "{{ env "NOMAD_ALLOC_DIR" }}/a.sock"
            # It reloads HAProxy when a member comes or goes, whatever process ids the
            # two tasks see of each other.
            master_socket = "{{ env "NOMAD_ALLOC_DIR" }}/m.sock"
            bind          = "${var.bind}"
            primary_port  = ${var.primary_port}
            replica_port  = ${var.replica_port}
          }
          # The state first: HAProxy reads it when it reads the other.
          template "state" {
            builtin     = "haproxy.state"
            destination = "{{ env "NOMAD_ALLOC_DIR" }}/data/${var.service}.state"
          }
          template "haproxy" {
            builtin     = "haproxy.cfg"
            destination = "{{ env "NOMAD_ALLOC_DIR" }}/data/haproxy.cfg"
            check       = ["${var.haproxy}", "-c", "-f", "{}"]
          }
        HCL
      }
      resources {
        cpu    = 100
        memory = 64
      }
    }

    task "haproxy" {
      driver = var.driver
      # SIGUSR1 lets the connections end by themselves, as long as kill_timeout.
      kill_signal  = "SIGUSR1"
      kill_timeout = "20s"
      config {
        command = "/bin/sh"
        args    = ["${NOMAD_TASK_DIR}/run.sh"]
      }
      template {
        destination = "${NOMAD_TASK_DIR}/run.sh"
        change_mode = "noop"
        data        = <<-SH
          # The first haproxy.cfg comes when the cluster has a member.
          cd "$NOMAD_ALLOC_DIR/data"
          until [ -s haproxy.cfg ]; do sleep 0.2; done
          exec ${var.haproxy} -W -db -S "$NOMAD_ALLOC_DIR/m.sock" -f "$PWD/haproxy.cfg"
        SH
      }
      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
