variable "bin_dir" {
  type        = string
  default     = "/usr/lib/postgresql/15/bin"
  description = "PostgreSQL's programs on the clients: the same version everywhere."
}

variable "command" {
  type        = string
  default     = "/usr/local/bin/pgsidecar"
  description = "pgsidecar on the clients. Give each version a path of its own: a rolling update is then a change of this."
}

variable "consul" {
  type        = string
  default     = "127.0.0.1:8500"
  description = "Consul's agent as the task reaches it: the node's own. Several, separated by commas, are tried in turn."
}

variable "consul_acl" {
  type        = bool
  default     = false
  description = "Consul has ACLs: the members' token is the item consul beside the passwords. Without a token there, the members cannot start."
}

variable "count" {
  type        = number
  default     = 3
  description = "Members. Two of three must be up for writes in quorum mode; an even number tolerates no more than one less."
}

variable "cpu" {
  type    = number
  default = 1000
}

variable "data_dir" {
  type        = string
  default     = "/var/lib/pgsidecar/pg"
  description = "The data directory, in the host volume. raw_exec mounts nothing, so the path is the host's."
}

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "driver" {
  type        = string
  default     = "exec"
  description = "raw_exec, exec or docker."
}

variable "hba" {
  type        = list(string)
  default     = ["host all all 10.0.0.0/8 scram-sha-256", "host all all 172.16.0.0/12 scram-sha-256", "host all all 192.168.0.0/16 scram-sha-256"]
  description = "Who may connect: lines of pg_hba.conf."
}

variable "image" {
  type        = string
  default     = "pgsidecar:latest"
  description = "Built from `pgsidecar files docker`: a tag that names pgsidecar's and PostgreSQL's version. latest changes under your feet."
}

variable "job" {
  type        = string
  default     = "pg"
  description = "The job's name; the cluster and the service in Consul are called so too."
}

variable "kill_timeout" {
  type        = string
  default     = "30s"
  description = "From the signal to the kill. Nomad's clients cut it to their max_kill_timeout, 30s unless it is set."
}

variable "memory" {
  type    = number
  default = 2048
}

variable "min_healthy_time" {
  type        = string
  default     = "10s"
  description = "How long an updated member must be ready before the next one is touched."
}

variable "node_pool" {
  type    = string
  default = "default"
}

variable "nomad" {
  type        = string
  default     = "1.8"
  description = "1.8: for Nomad 1.8 and later. 1.6: for Nomad 1.6 and 1.7."
}

variable "one_machine" {
  type        = bool
  default     = false
  description = "Allow two members on one node: for trying it out only."
}

variable "parameters" {
  type        = map(string)
  default     = { max_connections = "200", shared_buffers = "512MB" }
  description = "PostgreSQL's parameters. A quarter of the memory for shared_buffers is a good beginning."
}

variable "rack" {
  type        = string
  default     = "$${node.datacenter}"
  description = "What members are spread over, such as $${meta.rack}."
}

variable "standbys" {
  type        = number
  default     = 1
  description = "How many replicas hold each commit before it is acknowledged. 0: none, and a failover may lose the newest."
}

variable "uid" {
  type        = number
  default     = 0
  description = "Numeric id of the user postgres on the clients (id -u postgres), who must be able to read the passwords."
}

variable "vault_path" {
  type        = string
  default     = ""
  description = "Path of a KV 2 secret in Vault with superuser, replication and api (and consul), such as secret/data/pg; empty: Nomad's variables."
}

variable "volume" {
  type        = string
  default     = "pgdata"
  description = "The host volume's name on the clients; for csi the volumes are called <volume>[0], <volume>[1] and so on."
}

variable "volume_type" {
  type        = string
  default     = "host"
  description = "host: a volume of the node, the fastest, and the data stay where they are. csi: it moves with the allocation."
}
