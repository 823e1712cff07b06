package dashboardtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// API is a Prometheus to ask.
type API struct {
	URL   string // without /api/v1
	Token string // of a viewer, or empty
}

// series is one series of an answer, of an instant query or of a range.
type series struct {
	Metric map[string]string
	Value  [2]any
	Values [][2]any
}

// get asks a path of the API and decodes the data of its answer.
func (a API) get(path string, form url.Values, data any) error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, a.URL+"/api/v1/"+path+"?"+form.Encode(), http.NoBody)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", path, err)
	}
	if a.Token != "" {
		req.Header.Set("Authorization", "Bearer "+a.Token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d, %w: %.500s", path, resp.StatusCode, err, body)
	}
	return json.Unmarshal(body, &struct{ Data any }{data})
}

// lookback is for how long Prometheus takes a sample for the value.
const lookback = 5 * time.Minute

// scrapeInterval is what the data sources that are shipped tell Grafana.
const scrapeInterval = 15 * time.Second

// question is one query with all that Grafana puts into it.
type question struct {
	what, expr string
	instant    bool
	from, to   time.Time
	step       time.Duration
}

// Ask asks every query of every panel, variable and annotation as a reader would at a moment. The error has each query whose answer
// is an error, or empty.
func Ask(tb testing.TB, a API, at time.Time, pages []Page) error {
	tb.Helper()
	asked := 0
	var errs []error
	for i := range pages {
		for _, q := range pages[i].questions(tb, a, at) {
			asked++
			n, err := a.ask(q)
			if err == nil && n == 0 {
				err = errors.New("it has no value")
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s, at %s: %w\n%s", q.what, at.Format(time.RFC3339), err, q.expr))
			}
		}
	}
	if asked == 0 {
		errs = append(errs, errors.New("nothing was asked"))
	}
	tb.Logf("%d queries at %s, %d in vain", asked, at.Format(time.RFC3339), len(errs))
	return errors.Join(errs...)
}

// Count returns of how many series the answer to an instant query has a value.
func (a API) Count(expr string) (int, error) {
	return a.ask(question{expr: expr, instant: true, to: time.Now()})
}

// ask returns of how many series the answer has a value.
func (a API) ask(q question) (n int, err error) {
	form := url.Values{"query": {q.expr}}
	path := "query"
	if q.instant {
		form.Set("time", seconds(q.to))
	} else {
		path = "query_range"
		step := q.step.Milliseconds()
		from, to := q.from.UnixMilli()/step*step, q.to.UnixMilli()/step*step // as Grafana does
		if q.step <= lookback {
			to += step // what is seconds old is seen by who looks when the step is over
		}
		form.Set("start", seconds(time.UnixMilli(from)))
		form.Set("end", seconds(time.UnixMilli(to)))
		form.Set("step", strconv.FormatFloat(q.step.Seconds(), 'f', -1, 64))
	}
	var data struct{ Result []series }
	if err := a.get(path, form, &data); err != nil {
		return 0, err
	}
	for _, s := range data.Result {
		if s.hasValue() {
			n++
		}
	}
	return n, nil
}

func seconds(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

// hasValue says whether there is a number, as NaN is not.
func (s series) hasValue() bool {
	number := func(point [2]any) bool {
		text, _ := point[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		return err == nil && !math.IsNaN(v)
	}
	return number(s.Value) || slices.ContainsFunc(s.Values, number)
}

func (p *Page) questions(tb testing.TB, a API, at time.Time) (list []question) {
	tb.Helper()
	span := since(tb, p.Time.From)
	values := p.variables(tb, a)
	for _, panel := range p.All() {
		during := span
		if panel.TimeFrom != "" {
			during = duration(tb, panel.TimeFrom)
		}
		// A panel has about as many points as pixels: 1,250 over the whole width of a laptop.
		step := interval(during, panel.GridPos.W/24*1250, max(scrapeInterval, duration(tb, panel.Interval)))
		for _, t := range panel.Targets {
			q := question{what: fmt.Sprintf("%s: %s", p.Title, panel.Title), instant: t.Instant, from: at.Add(-during), to: at, step: step}
			q.expr = expand(t.Expr, values, during, step)
			list = append(list, q)
		}
	}
	for _, n := range p.Annotations.List {
		if n.Target.Expr == "" {
			continue
		}
		step := interval(span, 100, max(scrapeInterval, duration(tb, n.Target.Interval)))
		list = append(list, question{what: fmt.Sprintf("%s: %s", p.Title, n.Name), from: at.Add(-span), to: at, step: step,
			expr: expand(n.Target.Expr, values, span, step)})
	}
	return list
}

func since(tb testing.TB, from string) time.Duration {
	return duration(tb, strings.TrimPrefix(from, "now-"))
}

func duration(tb testing.TB, text string) time.Duration {
	tb.Helper()
	if text == "" {
		return 0
	}
	d, err := model.ParseDuration(text)
	if err != nil {
		tb.Fatal(err)
	}
	return time.Duration(d)
}

// interval is Grafana's $__interval: a round distance of two points.
func interval(span time.Duration, points float64, least time.Duration) time.Duration {
	exact := time.Duration(float64(span) / points)
	for _, round := range []time.Duration{
		15 * time.Second, 20 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute,
		20 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
	} {
		if round >= exact && round >= least {
			return round
		}
	}
	return max(exact, least)
}

// expand puts values for variables, as Grafana does.
func expand(expr string, values map[string]string, span, step time.Duration) string {
	rate := max(step+scrapeInterval, 4*scrapeInterval)
	pairs := []string{
		"$__rate_interval", text(rate), "$__range_s", strconv.Itoa(int(span.Seconds())), "$__range", text(span), "$__interval", text(step),
	}
	names := slices.Collect(maps.Keys(values))
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) })
	for _, name := range names {
		pairs = append(pairs, "${"+name+"}", values[name], "$"+name, values[name])
	}
	return strings.NewReplacer(pairs...).Replace(expr)
}

func text(d time.Duration) string { return model.Duration(d).String() }

// variables asks for the values of the variables, and takes those that a page opens with.
func (p *Page) variables(tb testing.TB, a API) map[string]string {
	tb.Helper()
	values := map[string]string{}
	for _, v := range p.Templating.List {
		switch {
		case v.Type == "datasource":
			values[v.Name] = "under-test"
		case v.Type != "query":
			values[v.Name] = v.Current.Value
		default:
			found := a.labelValues(tb, expand(v.Definition, values, 0, scrapeInterval))
			values[v.Name] = v.Current.Value
			if v.Current.Value == "$__all" {
				values[v.Name] = v.AllValue
			} else if !slices.Contains(found, v.Current.Value) {
				tb.Errorf("%s: the variable %s has the values %q, without %q", p.Title, v.Name, found, v.Current.Value)
			}
			if len(found) == 0 {
				tb.Errorf("%s: the variable %s has no values: %s", p.Title, v.Name, v.Definition)
			}
		}
	}
	return values
}

// labelValues asks label_values(selector, label).
func (a API) labelValues(tb testing.TB, definition string) (list []string) {
	tb.Helper()
	inside, found := strings.CutPrefix(strings.TrimSuffix(definition, ")"), "label_values(")
	at := strings.LastIndex(inside, ", ")
	if !found || at < 0 {
		tb.Fatalf("%s is not label_values(selector, label)", definition)
	}
	form := url.Values{"match[]": {inside[:at]}}
	if err := a.get("label/"+inside[at+2:]+"/values", form, &list); err != nil {
		tb.Errorf("%s: %v", definition, err)
	}
	return list
}
