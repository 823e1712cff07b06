// Package dashboards has the Grafana dashboards that are shipped with usaged, as classic JSON for file provisioning and for
// Grafana's HTTP API, and an example of a table of prices of language models. Package generate writes the JSON.
package dashboards

import "embed"

// FS has the dashboards in its root.
//
//go:embed *.json
var FS embed.FS
