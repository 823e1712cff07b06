package embedded

import (
	"context"
	"net/url"

	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/rules"
)

// notify hands alerts to the notifier. Their link leads to the expression's value in our HTTP API; Prometheus' own function
// links to a page of its user interface.
func (r *running) notify(_ context.Context, expr string, alerts ...*rules.Alert) {
	out := make([]*notifier.Alert, 0, len(alerts))
	for _, a := range alerts {
		ends := a.ResolvedAt
		if ends.IsZero() {
			ends = a.ValidUntil
		}
		out = append(out, &notifier.Alert{
			StartsAt: a.FiredAt, EndsAt: ends, Labels: a.Labels, Annotations: a.Annotations,
			GeneratorURL: r.rulesURL + "/api/v1/query?query=" + url.QueryEscape(expr),
		})
	}
	if len(out) > 0 {
		r.alerts.Send(out...)
	}
}
