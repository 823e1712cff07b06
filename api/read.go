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

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/rollup"
	"usaged/api/auth"
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
func (a *API) getSummary(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	q := parseQuery(r)
	days := a.days(q, defaultDays)
	ask := rollup.SummaryQuery{
		EventType: q.text("event_type", event.MaxTypeBytes),
		UserID:    q.text("user_id", event.MaxUserIDBytes),
		Top:       q.number("top", maxTop, 0),
	}
	if err := q.err(); err != nil {
		return err
	}
	window := a.cfg.Reader.Window(days)
	query := fmt.Sprintf("summary %q %q %d", ask.EventType, ask.UserID, ask.Top)
	return a.read(w, r, question{window, query, "summary"}, func(ctx context.Context) (answer, error) {
		types, err := a.cfg.Reader.Summary(ctx, window, ask)
		return &summary{types: types, window: window, now: a.cfg.Now()}, err
	})
}

// summary is the answer of getSummary.
type summary struct {
	types  []rollup.TypeUsers
	window rollup.Window
	now    time.Time
	waiting
}

func (a *summary) json(s *stream) {
	s.raw(`{"summary":{`)
	for i := range a.types {
		s.key(i, a.types[i].Type)
		s.totals(a.types[i].Users)
	}
	s.raw(`},"generated_at":"` + a.now.UTC().Format(time.RFC3339) + `","days":` + strconv.Itoa(a.window.Len()))
	s.raw(`,"from":"` + a.window.From.String() + `","to":"` + a.window.To.String() + `"`)
	s.waiting(a.waiting)
	s.raw("}")
}

func (a *summary) csv(rows *csvRows) {
	rows.header("event_type", "user_id", "count")
	for i := range a.types {
		for _, user := range a.types[i].Users {
			rows.add(user.N, a.types[i].Type, user.Key)
		}
	}
}

// getMeter answers the totals of a meter: the one named, or the one in the path.
func (a *API) getMeter(name string) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
		name := name
		if name == "" {
			name = mux.Vars(r)["meter"]
		}
		known := a.cfg.Reader.Meters()
		m := findMeter(known, name)
		if m == nil {
			return refuse(unknownMeter, "there is no such meter; there are: "+meterNames(known))
		}
		q := parseQuery(r)
		days := a.days(q, defaultDays)
		top := q.number("top", maxTop, 0)
		dim := m.Default()
		switch q.choice("by", "user", "reference") {
		case "user":
			dim = meter.ByUser
		case "reference":
			dim = meter.ByReference
			if m.Reference == "" {
				q.fault("by", codeNoReference, "this meter has no reference, it knows users alone")
			}
		}
		if err := q.err(); err != nil {
			return err
		}
		return a.readMeter(w, r, a.cfg.Reader.Window(days), m, dim, top)
	}
}

func findMeter(list []meter.Meter, name string) *meter.Meter {
	if i := slices.IndexFunc(list, func(m meter.Meter) bool { return m.Name == name }); i >= 0 {
		return &list[i]
	}
	return nil
}

func meterNames(list []meter.Meter) string {
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name
	}
	return strings.Join(names, ", ")
}

func (a *API) readMeter(w http.ResponseWriter, r *http.Request, window rollup.Window, m *meter.Meter, dim meter.Dim, top int) error {
	// The key is part of it, because an operator can define a meter anew.
	query := fmt.Sprintf("meter %s %s %d", m.Key(), dim, top)
	column, by := "user_id", "user"
	if dim == meter.ByReference {
		column, by = m.Reference, "reference"
	}
	return a.read(w, r, question{window, query, m.Name + "-by-" + by}, func(ctx context.Context) (answer, error) {
		totals, err := a.cfg.Reader.Meter(ctx, window, m, dim, top)
		return &meterTotals{column, totals}, err
	})
}

// meterTotals is the answer of getMeter. column names what the keys are.
type meterTotals struct {
	column string
	totals []rollup.Total
}

func (a *meterTotals) json(s *stream) { s.totals(a.totals) }

func (a *meterTotals) csv(rows *csvRows) {
	rows.header(a.column, "total")
	for _, total := range a.totals {
		rows.add(total.N, total.Key)
	}
}

// getDaily answers the events by day and type, or the totals of meters by day.
func (a *API) getDaily(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	q := parseQuery(r)
	days := a.days(q, defaultDailyDays)
	meters := a.askedMeters(q)
	if err := q.err(); err != nil {
		return err
	}
	window := a.cfg.Reader.Window(days)
	if len(meters) == 0 {
		return a.read(w, r, question{window, "daily", "daily"}, func(ctx context.Context) (answer, error) {
			list, err := a.cfg.Reader.Daily(ctx, window)
			return &daily{column: "event_type", number: "count", days: list}, err
		})
	}
	query := "daily"
	for i := range meters {
		query += " " + meters[i].Key()
	}
	return a.read(w, r, question{window, query, "daily-by-meter"}, func(ctx context.Context) (answer, error) {
		list, err := a.cfg.Reader.DailyMeters(ctx, window, meters)
		return &daily{column: "meter", number: "total", days: list}, err
	})
}

// askedMeters returns the meters that the query names.
func (a *API) askedMeters(q *queryParams) (asked []meter.Meter) {
	names := q.list("meter", meter.MaxMeters)
	if len(names) == 0 {
		return nil
	}
	known := a.cfg.Reader.Meters()
	for _, name := range names {
		m := findMeter(known, name)
		switch {
		case m == nil:
			q.fault("meter", codeBadValue, "there is no such meter; there are: %s", meterNames(known))
		case findMeter(asked, name) == nil:
			asked = append(asked, *m)
		}
	}
	return asked
}

// daily is the answer of getDaily. The columns name what is counted, and the number.
type daily struct {
	column, number string
	days           []rollup.DayTotals
	waiting
}

func (a *daily) json(s *stream) {
	s.raw(`{"daily":{`)
	for i, day := range a.days {
		s.key(i, day.Day.String())
		s.raw("{")
		for j, name := range sortedKeys(day.Totals) {
			s.key(j, name)
			s.number(day.Totals[name])
		}
		s.raw("}")
	}
	s.raw("}")
	s.waiting(a.waiting)
	s.raw("}")
}

func (a *daily) csv(rows *csvRows) {
	rows.header("day", a.column, a.number)
	for _, day := range a.days {
		for _, name := range sortedKeys(day.Totals) {
			rows.add(day.Totals[name], day.Day.String(), name)
		}
	}
}

// question is what a request asks about a window of days. No two questions have the same query.
type question struct {
	window rollup.Window
	query  string
	file   string // what the answer is called where it is saved
}

// answer can be written in each format.
type answer interface {
	json(s *stream)
	csv(rows *csvRows)
}

// waiting is part of an answer that says how many events were accepted here and may be missing in it, because they are not counted yet.
type waiting struct{ pending *uint64 } // nil where that is not known

func (w *waiting) setPending(n uint64) { w.pending = &n }

// waiting encodes it as a member of an object that has others before it.
func (s *stream) waiting(w waiting) {
	if w.pending != nil {
		s.raw(`,"pending":`)
		s.number(*w.pending)
	}
}

// pendingHeader says the same of every answer, also where there is no room for it, as in CSV.
const pendingHeader = "Usage-Pending"

// read answers a question: 304 where the client knows the answer, otherwise what load returns. load is called, and
// memory taken for its answer, only when it must be.
func (a *API) read(w http.ResponseWriter, r *http.Request, ask question, load func(context.Context) (answer, error)) error {
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	// It is asked before the rollups, so that an event which is counted meanwhile is in both rather than in neither.
	pending, known := a.cfg.Ledger.Pending()
	version, err := a.cfg.Reader.Version(ctx, ask.window)
	if err != nil {
		return refuseReading(r, fmt.Errorf("read version: %w", err))
	}
	if known {
		w.Header().Set(pendingHeader, strconv.FormatUint(pending, 10))
	}
	format := negotiate(r.Header["Accept"])
	w.Header().Add("Vary", "Accept")
	tag := []string{version, ask.query, ask.window.From.String(), ask.window.To.String(), format.name}
	if pending > 0 || !known {
		tag = append(tag, "pending") // else a client with the answer of before would not learn that it is whole now
	}
	if notModified(w, r, etagOf(tag...)) {
		return nil
	}
	if r.Method == http.MethodHead {
		format.describe(w.Header(), ask)
		return nil
	}
	select {
	case a.reads <- struct{}{}:
		defer func() { <-a.reads }()
	case <-ctx.Done():
		return refuse(overloaded, "too many answers are being computed at this moment: try again")
	}
	got, err := load(ctx)
	if err != nil {
		return refuseReading(r, err)
	}
	if waits, ok := got.(interface{ setPending(n uint64) }); ok && known {
		waits.setPending(pending)
	}
	format.describe(w.Header(), ask)
	return format.write(w, got)
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
