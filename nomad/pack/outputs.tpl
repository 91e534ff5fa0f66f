[[ var "job" . ]] is found in Consul's DNS as
  primary.[[ var "job" . ]].service.consul   takes writes
  replica.[[ var "job" . ]].service.consul   takes reads
Its passwords are the Nomad variables nomad/jobs/[[ var "job" . ]] (superuser, replication, api)[[ if ne (var "vault_path" .) "" ]], or rather Vault's [[ var "vault_path" . ]][[ end ]].
