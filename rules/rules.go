// Package rules has the recording and alerting rules that are shipped with usaged, as rule files that any Prometheus, Mimir
// or VictoriaMetrics loads too. The daemon evaluates them in its embedded Prometheus.
//
//	usage.yml      usage:…           what was used: rates, increases, outcomes, tokens
//	health.yml     usage:activity:…  how much was used and how much the past weeks led to expect
//	               usage:health:…    the score and the modes
//	alerts.yml     Usage…            alerts, each with a section in docs/runbooks.md
//
// A group is evaluated in order. What is learned of the past is read with an offset of hours or weeks, and usage:activity:down reads what it was a
// minute before: so the rules are evaluated minute by minute, as time goes on.
package rules

import "embed"

// FS has the rule files in its root.
//
//go:embed *.yml
var FS embed.FS
