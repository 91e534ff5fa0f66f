package config

import _ "embed"

//go:embed example.hcl
var example string

// Example returns a pg.hcl to begin with, as `pgsidecar config init` writes it.
func Example() string { return example }
