app {
  url = "https://github.com/pgsidecar/pgsidecar"
}

pack {
  name        = "pgsidecar"
  description = "Highly available PostgreSQL: three members that elect a primary by a lock in Consul, and hand over before Nomad stops them."
  version     = "0.1.0"
}
