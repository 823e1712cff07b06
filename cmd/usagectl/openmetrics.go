package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/common/model"

	"usaged/client"
)

const (
	// pastStep is how far apart the samples of a backfill are, and those of a file.
	pastStep = 5 * time.Minute
)

// observedPast is what the rules look back at for four weeks, and derivedPast what they make of it and look back at for one. The sum
// of several daemons is another's activity, but not what follows from it.
var (
	observedPast = pastMetric{"usage:activity:observed", 31 * day}
	derivedPast  = []pastMetric{{"usage:activity:expected", 8 * day}, {"usage:activity:excess", 8 * day}, {"usage:activity:restless", 28 * day}}
)

type pastMetric struct {
	name   string
	length time.Duration
}

// openMetrics writes what daemons know of the past in the text format of OpenMetrics, added up over the daemons.
type openMetrics struct {
	daemons         []*client.Client
	until           time.Time
	out             *bufio.Writer
	series, samples uint64
}

// write writes everything. Only one series at a time is in memory.
func (o *openMetrics) write(ctx context.Context, w io.Writer) error {
	o.out = bufio.NewWriterSize(w, sourceBufferSize)
	metrics := []pastMetric{observedPast}
	if len(o.daemons) == 1 {
		metrics = append(metrics, derivedPast...)
	}
	for _, m := range metrics {
		if err := o.writeMetric(ctx, m); err != nil {
			return err
		}
	}
	if o.samples == 0 {
		return errors.New("nothing is known of the past: import events first, and look with `usagectl query 'usage:activity:observed offset 1w'`")
	}
	fmt.Fprintln(o.out, "# EOF")
	return o.out.Flush()
}

func (o *openMetrics) writeMetric(ctx context.Context, m pastMetric) error {
	start := o.until.Add(-m.length)
	known := map[string]model.Metric{}
	for _, api := range o.daemons {
		list, err := listSeries(ctx, api, m.name, start, o.until)
		if err != nil {
			return err
		}
		for _, series := range list {
			known[series.String()] = series
		}
	}
	fmt.Fprintf(o.out, "# TYPE %s gauge\n", m.name)
	for _, name := range slices.Sorted(maps.Keys(known)) {
		sum := map[model.Time]float64{}
		for _, api := range o.daemons {
			if err := addSamples(ctx, api, known[name], start, o.until, sum); err != nil {
				return err
			}
		}
		if err := o.writeSeries(known[name], sum); err != nil {
			return err
		}
	}
	return nil
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (o *openMetrics) writeSeries(series model.Metric, samples map[model.Time]float64) error {
	var text strings.Builder
	text.WriteString(string(series[model.MetricNameLabel]))
	separator := "{"
	for _, name := range slices.Sorted(maps.Keys(series)) {
		if name != model.MetricNameLabel {
			fmt.Fprintf(&text, `%s%s="%s"`, separator, name, escapeLabel.Replace(string(series[name])))
			separator = ","
		}
	}
	text.WriteString("} ")
	for _, at := range slices.Sorted(maps.Keys(samples)) {
		line := strconv.AppendFloat([]byte(text.String()), samples[at], 'f', -1, 64)
		line = strconv.AppendInt(append(line, ' '), at.Unix(), 10)
		if _, err := o.out.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	o.series++
	o.samples += uint64(len(samples))
	return nil
}

// listSeries lists the series of a metric.
func listSeries(ctx context.Context, api *client.Client, metric string, start, end time.Time) (list []model.Metric, err error) {
	var answer struct {
		Data []model.Metric `json:"data"`
	}
	err = getPromQL(ctx, api, "series", url.Values{"match[]": {metric}, "start": {seconds(start)}, "end": {seconds(end)}}, &answer)
	return answer.Data, err
}

// addSamples adds the samples of a series, of which there is one at each multiple of pastStep where it has a value.
func addSamples(ctx context.Context, api *client.Client, series model.Metric, start, end time.Time, sum map[model.Time]float64) error {
	var answer struct {
		Data struct {
			Result model.Matrix `json:"result"`
		} `json:"data"`
	}
	err := getPromQL(ctx, api, "query_range", url.Values{
		"query": {series.String()}, "start": {seconds(start.Add(pastStep))}, "end": {seconds(end)}, "step": {strconv.Itoa(int(pastStep.Seconds()))},
	}, &answer)
	if err != nil {
		return err
	}
	for _, stream := range answer.Data.Result {
		if !stream.Metric.Equal(series) { // it has more labels
			continue
		}
		for _, s := range stream.Values {
			sum[s.Timestamp] += float64(s.Value)
		}
	}
	return nil
}

func getPromQL(ctx context.Context, api *client.Client, endpoint string, values url.Values, into any) error {
	answer, err := api.Get(ctx, promPath+endpoint, values, "")
	if err != nil {
		return explainPromQL(err)
	}
	if err := json.Unmarshal(answer.Body, into); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}
