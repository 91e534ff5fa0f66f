cluster = "pg"
consul { address = ["127.0.0.1:8500"]  token_file = "x"  prefix = "pgsidecar" }
