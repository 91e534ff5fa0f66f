# What runs beside an application: it switches HAProxy and PgBouncer to the primary
# and writes their files. The blocks template, haproxy and pgbouncer may stand in a
# member's pg.hcl too. Check it with
#   pgsidecar config validate --proxy --config proxy.hcl
#   pgsidecar render --config proxy.hcl       # what would be written, beside what is there
# and run it with
#   pgsidecar proxy --config proxy.hcl
# What is commented out shows its default, or an example.

cluster = "pg"

consul {
  address = ["127.0.0.1:8500"]          # tried in turn; the local agent first
  # token_file = "/etc/pgsidecar/consul.token"    # it needs only to read: pgsidecar files policy
  # other_datacenter = "dc2"            # the other site's, whose cluster has the same name: clients are led to the
  #                                     # primary of the site that takes the writes (pgsidecar help sites)
}

# service {
#   name = "pg"                         # the cluster's name; the members' service, if theirs is another
# }

# api {
#   listen = "127.0.0.1:8018"           # /status, /metrics, /readiness, /liveness
# }

haproxy {
  socket = "/run/haproxy/admin.sock"    # the stats socket, which the file below makes
  # agent_socket  = "/run/haproxy/pg-agent.sock"  # beside socket
  # master_socket = "/run/haproxy-master.sock"    # of "haproxy -W -S PATH", as Debian's unit starts it: HAProxy
  #                                     # is reloaded by it when a member comes or goes, never for a change of
  #                                     # roles; sessions that a reload left in an old worker end with their primary
  # bind          = "127.0.0.1"
  # primary_port  = 5000
  # replica_port  = 5001
  # stats_port    = 8404                # statistics and Prometheus metrics; none unless set
  # primary_takes_reads = true          # without a replica, the primary serves replica_port
  # resolvers     = ["127.0.0.1:8600"]  # DNS servers, such as Consul's agent, for members that advertise a
  #                                     # name (n1.node.consul:5432); HAProxy follows it while it runs
  # maxconn         = 2000
  # connect_timeout = "200ms"           # default: twice the measured round trip to the farthest member, 50ms at least
  # queue_timeout   = "30s"             # how long a client waits for a primary
  # idle_timeout    = "576h"            # of a silent connection; HAProxy knows no longer one
  # global          = ["user haproxy", "group haproxy", "log /dev/log local0", "cpu-map auto:1/1-4 0-3"]
  #                                     # cpu-map: a core for each of 4 threads, which the kernel otherwise puts
  #                                     # two on one at times, when the sessions of a lost primary are ended
  # check_ca_file   = "/etc/pgsidecar/ca.crt"     # where the members' APIs have TLS
  # check_cert_file = "/etc/pgsidecar/haproxy.pem"
}

template "haproxy" {
  builtin     = "haproxy.cfg"           # or source = "/path" with your own; pgsidecar render --builtin list
  destination = "/etc/haproxy/haproxy.cfg"
  check       = ["haproxy", "-c", "-f", "{}"]     # must accept it before it replaces the last good one
  command     = ["systemctl", "reload", "haproxy"]          # not with master_socket; a file of your own: reload = "haproxy"
  # perms   = "0640"   # of a new file; otherwise mode and owner stay as they are
  # user    = "haproxy"                 # and group; those that the file has
  # timeout = "30s"                     # of check, command and reload
}

# pgbouncer {                           # its clients wait, without an error, while the primary changes
#   address       = "127.0.0.1:6432"    # or the directory of its socket
#   user          = "pgbouncer"         # in admin_users
#   password_file = "/etc/pgsidecar/pgbouncer.password"
#   database      = "app"               # by which clients connect
# }
# template "pgbouncer" {
#   builtin     = "pgbouncer.ini"       # for %include in pgbouncer.ini
#   destination = "/etc/pgbouncer/pgsidecar.ini"
# }

# log {
#   level  = "info"
#   format = "text"
# }
