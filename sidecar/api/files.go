package api

import _ "embed"

//go:embed files/grafana.json
var dashboard string

//go:embed files/alerts.yml
var alerts string

// Dashboard returns a Grafana dashboard of the metrics, in JSON, for Grafana 10
// and later.
func Dashboard() string { return dashboard }

// Alerts returns alert rules on the metrics, in YAML, for Prometheus.
func Alerts() string { return alerts }
