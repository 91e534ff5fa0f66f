cluster = "pg"
postgres { }
