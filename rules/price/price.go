// Package price knows what tokens of language models cost: a table that whoever owns the costs edits, one line per model.
//
//	# USD per million tokens
//	model,prompt,completion
//	large-1,3,15
//	small-1,0.15,0.6
//
// It is CSV, as spreadsheets write it. The columns stand in any order, and there may be one named other, for the tokens that an
// event has beyond prompt and completion. An empty cell is no price, which is not 0. A line that begins with # is a comment.
//
// Prices are exported as usage_llm_price_usd_per_million{model,kind}, so that whatever scrapes the daemon can multiply, and the
// price of a past day is the one that was in force then.
//
//	table, err := price.Open("prices.csv")
//	registry.Register(table)
package price

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// MaxModels bounds the table, and with it the series.
const MaxModels = 1000

// Metric is the name of the series of prices.
const Metric = "usage_llm_price_usd_per_million"

// Kinds are the kinds of tokens that can have a price, and the names of their columns.
func Kinds() []string { return []string{"prompt", "completion", "other"} }

// Price is what a million tokens of a kind cost.
type Price struct {
	Model, Kind string
	USD         float64
}

// Table is a table of prices. It is a prometheus.Collector, and safe for concurrent use.
type Table struct {
	path string
	desc *prometheus.Desc

	mu     sync.Mutex
	prices []Price
}

// Open reads a table. Where path is empty, it is empty and stays so.
func Open(path string) (*Table, error) {
	t := &Table{path: path, desc: prometheus.NewDesc(Metric,
		"USD per million tokens of a model, by kind of token, as --prices.file has it.", []string{"model", "kind"}, nil)}
	return t, t.Reload()
}

// Check says what is wrong with a table. None is fine.
func Check(path string) error {
	_, err := load(path)
	return err
}

// Reload reads the table again. On an error what was in force stays.
func (t *Table) Reload() error {
	prices, err := load(t.path)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prices = prices
	return nil
}

// Describe implements prometheus.Collector.
func (t *Table) Describe(ch chan<- *prometheus.Desc) { ch <- t.desc }

// Collect implements prometheus.Collector.
func (t *Table) Collect(ch chan<- prometheus.Metric) {
	for _, p := range t.Prices() {
		ch <- prometheus.MustNewConstMetric(t.desc, prometheus.GaugeValue, p.USD, p.Model, p.Kind) // load has checked the names
	}
}

// Prices returns all prices, in the order of the table.
func (t *Table) Prices() []Price {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.prices)
}

// load reads a table, none where path is empty. The error has a line for each fault: file, line and reason.
func load(path string) ([]Price, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--prices.file: %w", err)
	}
	r := &reader{path: path, seen: map[string]int{}}
	for i, line := range bytes.Split(data, []byte("\n")) { // names of models become labels, which must be UTF-8
		if !utf8.Valid(line) {
			r.fault(i+1, "it is not UTF-8: save the table as CSV UTF-8")
		}
	}
	if len(r.faults) > 0 {
		return nil, errors.Join(r.faults...)
	}
	r.read(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))) // some spreadsheets mark UTF-8
	return r.prices, errors.Join(r.faults...)
}

// reader reads one table.
type reader struct {
	path   string
	seen   map[string]int // model → its line
	prices []Price
	faults []error
}

func (r *reader) fault(line int, format string, args ...any) {
	r.faults = append(r.faults, fmt.Errorf("%s:%d: %s", r.path, line, fmt.Sprintf(format, args...)))
}

func (r *reader) read(data []byte) {
	table := csv.NewReader(bytes.NewReader(data))
	table.Comment, table.TrimLeadingSpace = '#', true
	var columns []string
	for {
		cells, err := table.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if wrong, ok := errors.AsType[*csv.ParseError](err); ok {
			r.fault(wrong.Line, "%v: it is a table with commas between the cells, and as many in each line", wrong.Err)
			return
		}
		line, _ := table.FieldPos(0)
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if columns == nil {
			columns = cells
			if !r.heading(columns, line) {
				return
			}
			continue
		}
		r.model(columns, cells, line)
	}
	if len(r.seen) > MaxModels {
		r.fault(1, "there are %d models: at most %d can have prices", len(r.seen), MaxModels)
	}
}

// heading says whether the first line names the columns.
func (r *reader) heading(columns []string, line int) bool {
	before := len(r.faults)
	for i, name := range columns {
		if name != "model" && !slices.Contains(Kinds(), name) {
			r.fault(line, "the column %q is none of model, %s", name, strings.Join(Kinds(), ", "))
		} else if slices.Contains(columns[:i], name) {
			r.fault(line, "there are two columns %s", name)
		}
	}
	if !slices.Contains(columns, "model") {
		r.fault(line, "there is no column model: the first line names the columns, as model,prompt,completion")
	}
	return len(r.faults) == before
}

func (r *reader) model(columns, cells []string, line int) {
	model := cells[slices.Index(columns, "model")]
	if model == "" {
		r.fault(line, "the model has no name")
		return
	}
	if first := r.seen[model]; first > 0 {
		r.fault(line, "%s has its prices in line %d already", model, first)
		return
	}
	r.seen[model] = line
	for i, kind := range columns {
		if kind == "model" || cells[i] == "" {
			continue
		}
		usd, err := strconv.ParseFloat(strings.TrimPrefix(cells[i], "$"), 64)
		if err != nil || usd < 0 || math.IsInf(usd, 0) || math.IsNaN(usd) {
			r.fault(line, "%s: %q is no price: give one as 2.50", kind, cells[i])
			continue
		}
		r.prices = append(r.prices, Price{Model: model, Kind: kind, USD: usd})
	}
}
