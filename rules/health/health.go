// Package health tells in numbers and words what the rules of rules/health.yml have recorded: the score, the mode, since when,
// and what each component of it saw.
//
// The rules are the only place where the score is computed. A [Reader] asks a Prometheus for what they recorded at their last
// evaluation, so that API, metric and rules show the same numbers. Between two evaluations it asks for one number, the time
// of the last one, and returns the report that it has. [Reader.Run] does so in the background, so that a report is ready for who
// asks again and again.
//
//	reader := health.NewReader(querier)
//	go reader.Run(ctx)
//	report, err := reader.Report(ctx)
package health

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
)

// AllTypes is the event type that stands for all of them together.
const AllTypes = "__all__"

// Unknown is the mode where there is no score.
const Unknown = "unknown"

// Unjudged is the mode where the score is that of the other components, since nothing can be said about activity.
const Unjudged = "unjudged"

// modes are the modes by their numbers. That of Unjudged is -1.
var modes = []string{"normal", "watch", "degraded", "critical"}

// NotEvaluated is the reason where no rules are evaluated. The others are those of the rules.
const NotEvaluated = "not_evaluated"

const (
	// queryTimeout bounds the time in which a report is read.
	queryTimeout = 5 * time.Second
	// keepInterval is how often Run looks for a new report, keepFor how long after the last question.
	keepInterval = time.Second
	keepFor      = 2 * time.Minute
)

// ErrNotOpen is the error of a [Querier] that has nothing to ask yet. A report then says so.
var ErrNotOpen = errors.New("not open")

// ErrNoDrop is the error of [Reader.Left] where no drop of a type is told.
var ErrNoDrop = errors.New("no drop is told")

// Querier evaluates PromQL. String names it in errors.
type Querier interface {
	// Query returns the value of an expression at a time, which is now where it is zero.
	Query(ctx context.Context, expr string, at time.Time) (model.Vector, error)
	String() string
}

// Report is what was recorded at one evaluation of the rules. It is not changed any more.
type Report struct {
	// EvaluatedAt is zero where no rules are evaluated.
	EvaluatedAt time.Time
	All         Subject
	Types       []Subject // in the order of their names
}

// Subject is an event type, or all of them.
type Subject struct {
	EventType string
	// Score is from 0 to 100, nil where it is unknown.
	Score *float64
	Mode  string
	// Judged says whether activity is part of the score.
	Judged bool
	// Since is when the mode became what it is, zero where that was more than 31 days ago.
	Since time.Time
	// Reason says why the mode is unknown; empty where it isn't.
	Reason string
	// Text is what there is to know in a sentence.
	Text       string
	Components []Component // activity, failures, lag, policy
}

// Component is a part of the score.
type Component struct {
	Name   string
	Weight float64
	// Value is from 0 to 1, nil where nothing is known: the component then counts as 1.
	Value *float64
	// Unit of the numbers below: events, ratio or seconds.
	Unit string
	// Window is the time over which events were counted, such as 15m.
	Window string
	// Observed is what is judged, Expected what is usual; nil where they are not known.
	Observed, Expected *float64
	// Lower and Upper are the band in which Value is 1.
	Lower, Upper *float64
	// Reason says why nothing is known; empty where something is, or where the text says all.
	Reason string
	Text   string
}

// Reader makes reports. It is safe for concurrent use.
type Reader struct {
	querier Querier
	turn    chan struct{} // held by who asks

	last *Report // belongs to who holds the turn; not changed any more

	asked atomic.Pointer[time.Time] // when Report was called last; nil: never
	kept  atomic.Pointer[keptReport]
}

// keptReport is what Run has read, and when.
type keptReport struct {
	report *Report
	at     time.Time
}

// NewReader returns a reader of what a querier knows.
func NewReader(q Querier) *Reader {
	return &Reader{querier: q, turn: make(chan struct{}, 1)}
}

// Source names who is asked.
func (r *Reader) Source() string { return r.querier.String() }

// Run reads reports, so that Report has one at hand, as long as somebody has called it in the last two minutes, until ctx ends.
func (r *Reader) Run(ctx context.Context) {
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if asked := r.asked.Load(); asked == nil || time.Since(*asked) > keepFor {
			continue
		}
		if report, err := r.read(ctx); err == nil { // who asks next gets the error
			r.kept.Store(&keptReport{report, time.Now()})
		}
	}
}

// Report returns what was recorded last, or, where Run runs, what was so two seconds ago. It takes five seconds at most.
func (r *Reader) Report(ctx context.Context) (*Report, error) {
	now := time.Now()
	r.asked.Store(&now)
	if kept := r.kept.Load(); kept != nil && now.Sub(kept.at) < 2*keepInterval {
		return kept.report, nil
	}
	return r.read(ctx)
}

func (r *Reader) read(ctx context.Context) (*Report, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another report: %w", context.Cause(ctx))
	}
	at, err := r.evaluated(ctx)
	switch {
	case errors.Is(err, ErrNotOpen):
		return notOpen(r.Source()), nil
	case err != nil:
		return nil, err
	case at.IsZero():
		return notEvaluated(r.Source()), nil
	}
	if r.last != nil && r.last.EvaluatedAt.Equal(at) {
		return r.last, nil
	}
	samples, err := r.querier.Query(ctx, recorded, at)
	if err != nil {
		return nil, fmt.Errorf("read what the rules recorded: %w", err)
	}
	f := newFacts(samples)
	if f.first("usage:health:weight", "") == "" { // just started: the groups of rules are evaluated one by one
		return notEvaluated(r.Source()), nil
	}
	r.last = f.report(at)
	return r.last, nil
}

// Left returns what part of the expected events of a type is left while a drop is told: in the mean of the time since it began, six hours at
// most. The error is ErrNoDrop (errors.Is) where none is.
func (r *Reader) Left(ctx context.Context, eventType string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	expr := fmt.Sprintf("1 - avg_over_time(usage:activity:dropped{event_type=%q}[6h]) and usage:activity:dropped", eventType)
	samples, err := r.querier.Query(ctx, expr, time.Time{})
	switch {
	case errors.Is(err, ErrNotOpen):
		return 0, fmt.Errorf("read what is left of the events: %w", ErrNoDrop)
	case err != nil:
		return 0, fmt.Errorf("read what is left of the events: %w", err)
	case len(samples) == 0:
		return 0, ErrNoDrop
	}
	return float64(samples[0].Value), nil
}

// evaluated returns when the rules were evaluated last, zero where they were not in the last five minutes.
func (r *Reader) evaluated(ctx context.Context) (time.Time, error) {
	samples, err := r.querier.Query(ctx, "max(usage:health:evaluated)", time.Time{})
	switch {
	case err != nil:
		return time.Time{}, fmt.Errorf("read when the rules were evaluated: %w", err)
	case len(samples) == 0:
		return time.Time{}, nil
	case len(samples) > 1:
		return time.Time{}, errors.New("read when the rules were evaluated: the answer has several series")
	}
	return time.UnixMilli(int64(float64(samples[0].Value)*1000 + 0.5)).UTC(), nil
}

// notEvaluated is the report where there is nothing.
func notEvaluated(source string) *Report {
	return unknown("The score's rules were not evaluated in the last five minutes by " + source + ". That takes up to a minute after a start; a Prometheus of your own must have loaded the files of rules/.")
}

// notOpen is the report where there is nothing to ask yet.
func notOpen(source string) *Report {
	return unknown("The score's rules are not evaluated, since " + source + " is not open. It may be reading its own log, which ends by itself; if it could not start, the log of usaged says why.")
}

func unknown(text string) *Report {
	return &Report{All: Subject{EventType: AllTypes, Mode: Unknown, Reason: NotEvaluated, Text: text}}
}
