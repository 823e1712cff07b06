package backfill

import (
	"context"
	"runtime"
	"slices"
	"time"

	"usaged/aggregator"
)

// Run does what is due until ctx ends.
func (b *Backfiller) Run(ctx context.Context) {
	runtime.LockOSThread() // and never unlocks it: the thread ends with this goroutine, and its priority with it
	lowerPriority()
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	var late settling
	for {
		if b.due(&late) {
			b.attempt(ctx)
			late.since = time.Time{}
		}
		select {
		case <-ticker.C:
		case <-b.wake:
		case <-ctx.Done():
			return
		}
	}
}

// settling watches late events coming.
type settling struct {
	n              uint64
	changed, since time.Time
}

// settled takes a number of late events, and says whether no more come, or have been coming for long.
func (s *settling) settled(n uint64) bool {
	now := time.Now()
	if n != s.n || s.since.IsZero() {
		s.n, s.changed = n, now
	}
	if s.since.IsZero() {
		s.since = now
	}
	return now.Sub(s.changed) >= settleTime || now.Sub(s.since) >= settleLimit
}

// due says whether a backfill is to be done now.
func (b *Backfiller) due(s *settling) bool {
	late, known := b.cfg.Source.LateEvents()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file.Due {
		return true
	}
	if !known || late <= b.file.Late {
		*s = settling{}
		return false
	}
	if last := b.file.Last; last != nil && time.Since(last.Finished) < max(restTime, restFactor*time.Duration(last.Seconds*float64(time.Second))) {
		return false
	}
	return s.settled(late)
}

// attempt does a backfill, and notes how it ended.
func (b *Backfiller) attempt(ctx context.Context) {
	late, _ := b.cfg.Source.LateEvents() // which Past has, and perhaps more
	b.mu.Lock()
	asked := b.asked
	b.mu.Unlock()
	report, err := b.backfill(ctx)
	if ctx.Err() != nil {
		return // after the next start
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		err = b.save(stateFile{Due: b.asked != asked, Late: late, Last: report})
	}
	b.state = State{Phase: Idle, Last: b.file.Last}
	if b.file.Due {
		b.state.Phase = Waiting
	}
	if err != nil {
		b.state.Error = err.Error()
		b.runs.WithLabelValues(outcomeFailed).Inc()
		b.log.Warn("the past could not be written into the embedded Prometheus; trying again", "err", err)
		return
	}
	b.runs.WithLabelValues(outcomeDone).Inc()
	b.log.Info("wrote the past into the embedded Prometheus", "events", report.Events, "types", report.Types, "samples", report.Samples,
		"elapsed_seconds", report.Seconds)
}

// backfill counts the past and writes it.
func (b *Backfiller) backfill(ctx context.Context) (*Report, error) {
	b.enter(Waiting)
	if err := b.cfg.Target.Wait(ctx); err != nil {
		return nil, err
	}
	until := time.Now().UTC().Add(-step).Truncate(step) // what is younger queries would take for the present
	oldest := until.Add(-b.cfg.Retention)
	begun := time.Time{}
	past, err := b.cfg.Source.Past(ctx, aggregator.PastConfig{
		Start: oldest.Truncate(step).Add(-day), Until: until, Step: step,
		Progress: func(done, events uint64) {
			if begun.IsZero() {
				begun = time.Now()
			}
			b.progress(done, events)
		},
	})
	if err != nil {
		return nil, err
	}
	if begun.IsZero() {
		begun = time.Now()
	}
	b.enter(Writing)
	report, err := b.write(ctx, past, oldest)
	if err != nil {
		return nil, err
	}
	report.Finished = time.Now().UTC()
	report.Seconds = report.Finished.Sub(begun).Seconds()
	return report, nil
}

func (b *Backfiller) enter(phase string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Phase = phase
}

func (b *Backfiller) progress(done, events uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Phase, b.state.Done, b.state.Events = Reading, done, events
}

// write writes what is known of the past.
func (b *Backfiller) write(ctx context.Context, past *aggregator.Past, oldest time.Time) (*Report, error) {
	grid := Grid{Start: past.Start, Step: step, N: len(past.Late)}
	live, err := b.cfg.Target.Recorded(ctx, observed, grid)
	if err != nil {
		return nil, err
	}
	quiet, err := b.cfg.Target.Recorded(ctx, quietTime, grid)
	if err != nil {
		return nil, err
	}
	a := &activity{past: past, grid: grid, oldest: oldest, live: live, quiet: quiet}
	keepBefore := time.Time{}
	if !past.From.IsZero() { // what the journal does not have any more, an earlier backfill may have had
		keepBefore = past.From.Add(day + step)
		a.oldest = keepBefore
	}
	if _, err := b.cfg.Target.WritePast(ctx, keepBefore, a.series()); err != nil {
		return nil, err
	}
	if _, err := b.cfg.Target.DerivePast(ctx, learned, derived, grid.last(derivedTime, step)); err != nil {
		return nil, err
	}
	samples, err := b.cfg.Target.DerivePast(ctx, slices.Concat(learned, derived), hourly, grid.last(derivedTime, time.Hour))
	if err != nil {
		return nil, err
	}
	return &Report{
		Events: past.Events, Types: len(past.Types), Samples: samples,
		From: a.from, Until: past.Until, Known: past.From,
	}, nil
}
