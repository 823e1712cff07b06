package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"usaged/api/auth"
	"usaged/rules/health"
)

// HealthReader says how healthy usage is.
type HealthReader interface {
	// Report returns what the rules recorded last.
	Report(ctx context.Context) (*health.Report, error)
	// Left returns what part of the expected events of a type is left while a drop is told. The error is health.ErrNoDrop (errors.Is) where
	// none is.
	Left(ctx context.Context, eventType string) (float64, error)
	// Source names where they did.
	Source() string
}

// getHealth answers the score, the mode, and why.
func (a *API) getHealth(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	if a.cfg.Health == nil {
		return refuse(healthOff, "nothing evaluates the rules of the score, since --prometheus.enabled=false: leave that out, "+
			"or name a Prometheus that evaluates them with --health.prometheus-url")
	}
	report, err := a.cfg.Health.Report(r.Context())
	if err != nil {
		if r.Context().Err() != nil {
			return errCut
		}
		p := refuse(healthUnavailable, a.cfg.Health.Source()+" gives no score; the log of usaged says why: try again")
		if !a.healthAway.Swap(true) { // who polls would fill the log with it
			p.cause = err
		}
		return p
	}
	a.healthAway.Store(false)
	// Reports of one time are the same. One of no time says the same always.
	if notModified(w, r, etagOf("health", report.EvaluatedAt.Format(time.RFC3339Nano), report.All.Text)) {
		return nil
	}
	return streamJSON(w, func(s *stream) { s.health(report) })
}

// health encodes a report. All types together come first, as fields of the answer.
func (s *stream) health(r *health.Report) {
	s.raw("{")
	s.subject(&r.All)
	s.raw(`,"evaluated_at":`)
	s.time(r.EvaluatedAt, milliseconds)
	s.raw(`,"event_types":{`)
	for i := range r.Types {
		s.key(i, r.Types[i].EventType)
		s.raw("{")
		s.subject(&r.Types[i])
		s.raw("}")
	}
	s.raw("}}")
}

// subject encodes the fields of an event type.
func (s *stream) subject(t *health.Subject) {
	s.raw(`"mode":"` + t.Mode + `","judged":`)
	s.boolean(t.Judged)
	s.raw(`,"score":`)
	s.float(t.Score)
	s.raw(`,"since":`)
	s.time(t.Since, time.RFC3339)
	s.raw(`,"reason":`)
	s.optional(t.Reason)
	s.raw(`,"text":`)
	s.text(t.Text)
	s.raw(`,"components":{`)
	for i := range t.Components {
		s.key(i, t.Components[i].Name)
		s.component(&t.Components[i])
	}
	s.raw("}")
}

func (s *stream) component(c *health.Component) {
	s.raw(`{"weight":`)
	s.float(&c.Weight)
	s.raw(`,"value":`)
	s.float(c.Value)
	s.raw(`,"unit":"` + c.Unit + `","window":`)
	s.optional(c.Window)
	s.raw(`,"observed":`)
	s.float(c.Observed)
	s.raw(`,"expected":`)
	s.float(c.Expected)
	s.raw(`,"band":`)
	if c.Lower != nil && c.Upper != nil {
		s.raw(`{"lower":`)
		s.float(c.Lower)
		s.raw(`,"upper":`)
		s.float(c.Upper)
		s.raw("}")
	} else {
		s.raw("null")
	}
	s.raw(`,"reason":`)
	s.optional(c.Reason)
	s.raw(`,"text":`)
	s.text(c.Text)
	s.raw("}")
}

// float encodes a number as exactly as it is, null where there is none.
func (s *stream) float(v *float64) {
	if v == nil || *v-*v != 0 { // nor does JSON have infinities
		s.raw("null")
		return
	}
	s.buf = strconv.AppendFloat(s.buf, *v, 'f', -1, 64)
}

// optional encodes a string, null where it is empty.
func (s *stream) optional(v string) {
	if v == "" {
		s.raw("null")
		return
	}
	s.text(v)
}

// milliseconds is RFC 3339 for a time by which PromQL can be asked for the same.
const milliseconds = "2006-01-02T15:04:05.000Z07:00"

// time encodes a time, null where it is zero.
func (s *stream) time(t time.Time, layout string) {
	if t.IsZero() {
		s.raw("null")
		return
	}
	s.raw(`"` + t.UTC().Format(layout) + `"`)
}
