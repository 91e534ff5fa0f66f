postgres {
  data_dir  = "data"
  state_dir = "/var/lib/pgsidecar/db1/state"
  user      = "root"
  listen    = "10.0.0.1"
  advertise = "0.0.0.0:5432"
  superuser   { password_file = "secrets/superuser" }
  replication { password_file = "secrets/replication" }
  hba = ["all all trust", "host all all 0.0.0.0/0 scram-sha-256"]
  parameters = {
    fsync                     = false
    Port                      = 5433
    synchronous_standby_names = "*"
    synchronous_commit        = "local"
    recovery_target_time      = "now"
    work_mem                  = "64MB"
  }
}
api { listen = "10.0.0.1:99999" }
