package remotewrite

import (
	"fmt"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// content is what one request carries.
type content struct {
	series    []series
	samples   []sample
	exemplars []labelled
	families  map[string]metadata.Metadata // in requests of 1.0 that carry nothing else
}

func (c *content) isEmpty() bool { return len(c.samples)+len(c.exemplars)+len(c.families) == 0 }

// withoutHistograms takes the native histograms out of a request, which a receiver that has them switched off refuses with
// everything beside them. The classic ones say the same.
func (c *content) withoutHistograms() *content {
	rest := *c
	rest.samples = nil
	for _, one := range c.samples {
		if !one.isHistogram() {
			rest.samples = append(rest.samples, one)
		}
	}
	return &rest
}

// halves returns the request as two smaller ones, none where it carries one thing alone.
func (c *content) halves() []*content {
	first, second := &content{series: c.series}, &content{series: c.series}
	switch samples, exemplars := len(c.samples), len(c.exemplars); {
	case samples > 1:
		first.samples, second.samples = c.samples[:samples/2], c.samples[samples/2:]
		first.exemplars, second.exemplars = c.exemplars[:exemplars/2], c.exemplars[exemplars/2:]
	case samples == 1 && exemplars > 0:
		first.samples, second.exemplars = c.samples, c.exemplars
	case exemplars > 1:
		first.exemplars, second.exemplars = c.exemplars[:exemplars/2], c.exemplars[exemplars/2:]
	case len(c.families) > 1:
		first.families, second.families = map[string]metadata.Metadata{}, map[string]metadata.Metadata{}
		for name, m := range c.families {
			part := first
			if len(first.families) > len(second.families) {
				part = second
			}
			part.families[name] = m
		}
	default:
		return nil
	}
	return []*content{first, second}
}

// encode1 writes a request of remote write 1.0.
func encode1(c *content) ([]byte, error) {
	req := &prompb.WriteRequest{}
	position := map[int]int{} // of a series in the request
	for i := range c.samples {
		one := &c.samples[i]
		at, ok := position[one.series]
		if !ok {
			at = len(req.Timeseries)
			position[one.series] = at
			req.Timeseries = append(req.Timeseries, prompb.TimeSeries{Labels: prompb.FromLabels(c.series[one.series].labels, nil)})
		}
		ts := &req.Timeseries[at]
		switch {
		case one.h != nil:
			ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(one.t, one.h))
		case one.fh != nil:
			ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(one.t, one.fh))
		default:
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: one.t, Value: one.v})
		}
	}
	for _, e := range c.exemplars {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels:    prompb.FromLabels(e.series, nil),
			Exemplars: []prompb.Exemplar{{Labels: prompb.FromLabels(e.Labels, nil), Value: e.Value, Timestamp: e.Ts}},
		})
	}
	for family, m := range c.families {
		req.Metadata = append(req.Metadata, prompb.MetricMetadata{
			MetricFamilyName: family, Type: prompb.FromMetadataType(m.Type), Help: m.Help, Unit: m.Unit,
		})
	}
	data, err := req.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	return snappy.Encode(nil, data), nil
}

// encode2 writes a request of remote write 2.0.
func encode2(c *content, describe func(metric string) description) ([]byte, error) {
	symbols := writev2.NewSymbolTable()
	req := &writev2.Request{}
	position := map[int]int{}
	for i := range c.samples {
		one := &c.samples[i]
		at, ok := position[one.series]
		if !ok {
			at = len(req.Timeseries)
			position[one.series] = at
			ser := c.series[one.series]
			req.Timeseries = append(req.Timeseries, writev2.TimeSeries{
				LabelsRefs: symbols.SymbolizeLabels(ser.labels, nil),
				Metadata:   metadata2(&symbols, describe(ser.metric).Metadata),
			})
		}
		ts := &req.Timeseries[at]
		switch {
		case one.h != nil:
			ts.Histograms = append(ts.Histograms, writev2.FromIntHistogram(one.st, one.t, one.h))
		case one.fh != nil:
			ts.Histograms = append(ts.Histograms, writev2.FromFloatHistogram(one.st, one.t, one.fh))
		default:
			ts.Samples = append(ts.Samples, writev2.Sample{Timestamp: one.t, StartTimestamp: one.st, Value: one.v})
		}
	}
	for _, e := range c.exemplars {
		req.Timeseries = append(req.Timeseries, writev2.TimeSeries{
			LabelsRefs: symbols.SymbolizeLabels(e.series, nil),
			Exemplars:  []writev2.Exemplar{{LabelsRefs: symbols.SymbolizeLabels(e.Labels, nil), Value: e.Value, Timestamp: e.Ts}},
		})
	}
	req.Symbols = symbols.Symbols()
	data, err := req.OptimizedMarshal(nil)
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	return snappy.Encode(nil, data), nil
}

func metadata2(symbols *writev2.SymbolsTable, m metadata.Metadata) writev2.Metadata {
	return writev2.Metadata{
		Type:    writev2.FromMetadataType(m.Type),
		HelpRef: symbols.Symbolize(m.Help),
		UnitRef: symbols.Symbolize(m.Unit),
	}
}
