package config

import _ "embed"

//go:embed example.hcl
var example string

// Example returns a pg.hcl to begin with, as `pgsidecar config init` writes it.
func Example() string { return example }

//go:embed example-proxy.hcl
var exampleProxy string

// ExampleProxy returns a proxy.hcl to begin with, as `pgsidecar config init --proxy`
// writes it.
func ExampleProxy() string { return exampleProxy }
