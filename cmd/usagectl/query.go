package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/common/model"

	"usaged/client"
)

const (
	promPath = "/prometheus/api/v1/"
	// defaultRange is what a chart shows where no range is given.
	defaultRange = time.Hour
	// points is how many steps a range has where no step is given.
	points = 120
	// minStep is the interval in which the daemon scrapes itself; a shorter step repeats values.
	minStep = 15 * time.Second
)

// queryCommand evaluates PromQL.
type queryCommand struct {
	expr        string
	span, step  model.Duration
	graph       bool
	evaluatedAt time.Time
}

func addQuery(app *kingpin.Application, _ *session, commands map[string]command) {
	c := &queryCommand{}
	cmd := app.Command("query", "Evaluate PromQL in the daemon's embedded Prometheus.")
	cmd.Arg("promql", "The expression, as sum by (event_type) (rate(usage_events_total[5m])).").Required().StringVar(&c.expr)
	cmd.Flag("range", "From so long ago until now, as 6h, in steps; by default only now, and of a chart an hour.").SetValue(&c.span)
	cmd.Flag("step", "The time between two values of a range, as 1m; by default what gives 120 of them, and 15s at least.").SetValue(&c.step)
	cmd.Flag("graph", "Draw a chart.").BoolVar(&c.graph)
	commands[cmd.FullCommand()] = c.run
}

func (c *queryCommand) run(ctx context.Context, s *session) error {
	if c.graph && c.span == 0 {
		c.span = model.Duration(defaultRange)
	}
	if c.step == 0 {
		c.step = model.Duration(max(time.Duration(c.span)/points, minStep).Round(time.Second))
	} else if c.span == 0 {
		return usagef("--step goes with --range or --graph")
	}
	if c.graph && s.json() {
		return usagef("--graph draws, --output=json does not: choose one")
	}
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	c.evaluatedAt = s.now()
	path, values := c.request()
	if s.json() {
		return passJSON(ctx, s, api, path, values)
	}
	answer, err := api.Get(ctx, path, values, "")
	if err != nil {
		return explainPromQL(err)
	}
	result, err := parsePromQL(answer.Body)
	if err != nil {
		return err
	}
	switch {
	case len(result) == 0:
		_, err = fmt.Fprintln(s.stdout, "no data")
	case c.graph:
		err = c.draw(s, result)
	case c.span > 0:
		err = rangeTable(result).write(s.stdout)
	default:
		err = instantTable(result).write(s.stdout)
	}
	return err
}

func (c *queryCommand) request() (path string, values url.Values) {
	values = url.Values{"query": {c.expr}}
	if c.span == 0 {
		values.Set("time", seconds(c.evaluatedAt))
		return promPath + "query", values
	}
	values.Set("start", seconds(c.evaluatedAt.Add(-time.Duration(c.span))))
	values.Set("end", seconds(c.evaluatedAt))
	values.Set("step", strconv.FormatFloat(time.Duration(c.step).Seconds(), 'f', -1, 64))
	return promPath + "query_range", values
}

func seconds(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

// explainPromQL takes from the answer what Prometheus says about the expression.
func explainPromQL(err error) error {
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok {
		return err
	}
	m := promError.FindStringSubmatch(problem.Detail)
	if m == nil {
		return err
	}
	text, quoteErr := strconv.Unquote(`"` + m[1] + `"`)
	if quoteErr != nil {
		return err
	}
	return errors.New(text)
}

// promError finds the error in an answer of Prometheus', of which only the beginning may be there.
var promError = regexp.MustCompile(`"error":"((?:[^"\\]|\\.)*)`)

// promSeries is a series of an answer.
type promSeries struct {
	name   string
	times  []time.Time
	values []float64
}

func (p *promSeries) last() float64 { return p.values[len(p.values)-1] }

// parsePromQL reads an answer: a scalar, a vector or a matrix.
func parsePromQL(body []byte) ([]promSeries, error) {
	var answer struct {
		Data struct {
			ResultType model.ValueType `json:"resultType"`
			Result     jsontext.Value  `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	matrix, err := toMatrix(answer.Data.ResultType, answer.Data.Result)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	var result []promSeries
	for _, stream := range matrix {
		if len(stream.Values) == 0 {
			return nil, errors.New("a native histogram has no single value: ask for histogram_quantile(), histogram_count() or histogram_sum() of it, or for --output=json")
		}
		s := promSeries{name: stream.Metric.String()}
		for _, pair := range stream.Values {
			s.times, s.values = append(s.times, pair.Timestamp.Time()), append(s.values, float64(pair.Value))
		}
		result = append(result, s)
	}
	return result, nil
}

// toMatrix makes a value of any type that has numbers a matrix.
func toMatrix(kind model.ValueType, text []byte) (matrix model.Matrix, err error) {
	switch kind {
	case model.ValMatrix:
		err = json.Unmarshal(text, &matrix)
	case model.ValVector:
		var vector model.Vector
		err = json.Unmarshal(text, &vector)
		for _, s := range vector {
			stream := &model.SampleStream{Metric: s.Metric}
			if s.Histogram == nil {
				stream.Values = []model.SamplePair{{Timestamp: s.Timestamp, Value: s.Value}}
			}
			matrix = append(matrix, stream)
		}
	case model.ValScalar:
		var scalar model.Scalar
		err = json.Unmarshal(text, &scalar)
		matrix = model.Matrix{{Values: []model.SamplePair{{Timestamp: scalar.Timestamp, Value: scalar.Value}}}}
	default:
		err = fmt.Errorf("a %s is no number: give an expression that has one", kind)
	}
	return matrix, err
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

func instantTable(result []promSeries) *table {
	t := newTable("SERIES", ">VALUE")
	for _, s := range result {
		t.add(s.name, number(s.last()))
	}
	return t
}

func rangeTable(result []promSeries) *table {
	t := newTable("SERIES", ">VALUES", ">MIN", ">MAX", ">LAST", "AT")
	for _, s := range result {
		t.add(s.name, strconv.Itoa(len(s.values)), number(slices.Min(s.values)), number(slices.Max(s.values)), number(s.last()),
			s.times[len(s.times)-1].UTC().Format(time.RFC3339))
	}
	return t
}
