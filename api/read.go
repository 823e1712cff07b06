package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"usaged/aggregator"
	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

const (
	// defaultDays and defaultDailyDays are the windows of requests that name none.
	defaultDays      = 7
	defaultDailyDays = 30
	// maxTop is more rows than anybody reads.
	maxTop = 1_000_000
	// readTimeout bounds how long an answer is computed.
	readTimeout = 30 * time.Second
	// maxConcurrentReads bounds the answers that are in memory at one time.
	maxConcurrentReads = 32
)

// days returns the window that the query asks for.
func (a *API) days(q *queryParams, absent int) int {
	retention := a.cfg.Reader.Retention()
	return q.number("days", retention, min(absent, retention))
}

// getSummary answers the events by type and user.
func (a *API) getSummary(w http.ResponseWriter, r *http.Request, _ *Token) error {
	q := parseQuery(r)
	days := a.days(q, defaultDays)
	ask := aggregator.SummaryQuery{
		EventType: q.text("event_type", event.MaxTypeBytes),
		UserID:    q.text("user_id", event.MaxUserIDBytes),
		Top:       q.number("top", maxTop, 0),
	}
	if err := q.err(); err != nil {
		return err
	}
	window := a.cfg.Reader.Window(days)
	query := fmt.Sprintf("summary %q %q %d", ask.EventType, ask.UserID, ask.Top)
	return a.read(w, r, window, query, func(ctx context.Context) (func(*stream), error) {
		types, err := a.cfg.Reader.Summary(ctx, window, ask)
		if err != nil {
			return nil, err
		}
		now := a.cfg.Now()
		return func(s *stream) { s.summary(types, window, now) }, nil
	})
}

func (s *stream) summary(types []aggregator.TypeUsers, window aggregator.Window, now time.Time) {
	s.raw(`{"summary":{`)
	for i := range types {
		s.key(i, types[i].Type)
		s.totals(types[i].Users)
	}
	s.raw(`},"generated_at":"` + now.UTC().Format(time.RFC3339) + `","days":` + strconv.Itoa(window.Len()))
	s.raw(`,"from":"` + window.From.String() + `","to":"` + window.To.String() + `"}`)
}

// getMeter answers the totals of a meter: the one named, or the one in the path.
func (a *API) getMeter(name string) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request, _ *Token) error {
		name := name
		if name == "" {
			name = mux.Vars(r)["meter"]
		}
		if known := a.cfg.Reader.Meters(); !slices.Contains(known, name) {
			return refuse(unknownMeter, "there is no such meter; there are: "+strings.Join(known, ", "))
		}
		q := parseQuery(r)
		days := a.days(q, defaultDays)
		top := q.number("top", maxTop, 0)
		dim := a.cfg.Reader.Default(name)
		switch q.choice("by", "user", "reference") {
		case "user":
			dim = meter.ByUser
		case "reference":
			dim = meter.ByReference
		}
		if err := q.err(); err != nil {
			return err
		}
		return a.readMeter(w, r, a.cfg.Reader.Window(days), name, dim, top)
	}
}

func (a *API) readMeter(w http.ResponseWriter, r *http.Request, window aggregator.Window, name string, dim meter.Dim, top int) error {
	query := fmt.Sprintf("meter %s %s %d", name, dim, top)
	return a.read(w, r, window, query, func(ctx context.Context) (func(*stream), error) {
		totals, err := a.cfg.Reader.Meter(ctx, window, name, dim, top)
		switch {
		case errors.Is(err, aggregator.ErrNoReference):
			p := refuse(invalidQuery, "the query has faults")
			p.faults, p.total = []event.Fault{{
				Pointer: queryPointer("by"), Code: codeNoReference, Detail: "this meter has no reference, it knows users alone",
			}}, 1
			return nil, p
		case errors.Is(err, aggregator.ErrNoMeter): // gone since it was looked up
			return nil, refuse(unknownMeter, "there is no such meter any more")
		case err != nil:
			return nil, err
		}
		return func(s *stream) { s.totals(totals) }, nil
	})
}

// getDaily answers the events by day and type.
func (a *API) getDaily(w http.ResponseWriter, r *http.Request, _ *Token) error {
	q := parseQuery(r)
	days := a.days(q, defaultDailyDays)
	if err := q.err(); err != nil {
		return err
	}
	window := a.cfg.Reader.Window(days)
	return a.read(w, r, window, "daily", func(ctx context.Context) (func(*stream), error) {
		list, err := a.cfg.Reader.Daily(ctx, window)
		if err != nil {
			return nil, err
		}
		return func(s *stream) { s.daily(list) }, nil
	})
}

func (s *stream) daily(list []aggregator.DayTypes) {
	s.raw(`{"daily":{`)
	for i, day := range list {
		s.key(i, day.Day.String())
		s.raw("{")
		for j, name := range sortedKeys(day.Types) {
			s.key(j, name)
			s.number(day.Types[name])
		}
		s.raw("}")
	}
	s.raw("}}")
}

// read answers a question about a window: 304 where the client knows the answer, otherwise what load returns. load is
// called, and memory taken for its answer, only when it must be.
func (a *API) read(w http.ResponseWriter, r *http.Request, window aggregator.Window, query string,
	load func(context.Context) (func(*stream), error),
) error {
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	version, err := a.cfg.Reader.Version(ctx, window)
	if err != nil {
		return refuseReading(r, fmt.Errorf("read version: %w", err))
	}
	if notModified(w, r, etagOf(version, query, window.From.String(), window.To.String())) {
		return nil
	}
	if r.Method == http.MethodHead {
		w.Header()["Content-Type"] = jsonType
		return nil
	}
	select {
	case a.reads <- struct{}{}:
		defer func() { <-a.reads }()
	case <-ctx.Done():
		return refuse(overloaded, "too many answers are being computed at this moment: try again")
	}
	encode, err := load(ctx)
	if err != nil {
		return refuseReading(r, err)
	}
	return streamJSON(w, encode)
}

// refuseReading is the answer where the rollups cannot be read. Where the client has gone away that is the reason, and
// nothing to worry about.
func refuseReading(r *http.Request, err error) error {
	if r.Context().Err() != nil {
		return errCut
	}
	if _, ok := errors.AsType[*problem](err); ok {
		return err
	}
	return &problem{class: storeUnavailable, detail: "the rollups cannot be read at this moment: try again", cause: err}
}
