# The Consul ACL policy of one member of the cluster "pg": what it needs, and
# nothing else. `pgsidecar files policy -cluster main` prints it for another
# cluster, prefix or service. To make a token of it:
#
#   consul acl policy create -name pgsidecar-pg -rules @policy.hcl
#   consul acl token create -description "pgsidecar pg" -policy-name pgsidecar-pg
#
# and put the token's SecretID into the file that consul.token_file in pg.hcl
# names, readable for the user of pgsidecar alone. All members may share it.

# The leader lock, the record, the settings and the history.
key_prefix "pgsidecar/pg/" { policy = "write" }

# The session that holds the lock. It belongs to the node of the agent that was
# asked: where the members' nodes have a common prefix, name that instead.
session_prefix "" { policy = "write" }

# The instance of this member and its checks; and, for a new primary, to take
# the tag "primary" from the instance of the old one.
service "pg" { policy = "write" }

# The nodes that the instances are on: without it Consul leaves instances out of
# its answers, and a second primary could be one of them.
node_prefix "" { policy = "read" }

# The proxies that are registered: each member's page shows where they lead clients.
service "pg-proxy" { policy = "read" }

# DNS does not ask with this token, but with that of the agent which is asked
# (acl.tokens.dns, else acl.tokens.default). With default_policy = "deny" that
# one needs the rules below, or names such as primary.pg.service.consul are not
# found, though the API shows them:
#
#   service "pg" { policy = "read" }
#   node_prefix "" { policy = "read" }
