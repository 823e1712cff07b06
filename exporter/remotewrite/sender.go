package remotewrite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
)

const (
	// settle is how long after its time a sample may be committed without being late.
	settle = time.Second
	// chunk is the span of time that is read at once. It bounds memory while a backlog is sent.
	chunk = 5 * time.Minute
	// clockTolerance is how far the cursor may be in the future before the clock is taken to have gone back.
	clockTolerance = time.Minute
)

// sender sends to one endpoint.
type sender struct {
	name     string
	cfg      *config.RemoteWriteConfig
	external labels.Labels
	client   *client
	db       storage.Queryable
	tap      *Tap
	state    *state
	now      func() time.Time
	log      *slog.Logger
	metrics  *writerMetrics

	// Guarded by tap.mu.
	readTo    int64 // up to where the TSDB has been, or is being, read
	late      []lateness
	flooded   bool // more came late than late may hold; the cursor goes back to the earliest instead
	exemplars []labelled

	// Of the sender's own goroutine.
	unsureTo   int64 // the latest sample of which the receiver may have some already
	failing    bool  // whether the last request failed
	classic    bool  // whether the receiver has said that it takes no native histograms
	maxSamples int   // in a request: what is configured, or less where the receiver has said that this is too large
	refusedAt  time.Time
	described  time.Time // when the metadata went out, in 1.0
	minBackoff time.Duration
	maxBackoff time.Duration

	replaces *sender            // which has stopped; nil once this one has begun
	quit     chan struct{}      // closed: no further round
	cancel   context.CancelFunc // ends the round that is under way
	stopped  sync.WaitGroup
}

// newSender makes a sender that goes on at its cursor, and in place of old, which has stopped, where that is not nil. It needs w.mu.
func (w *Writer) newSender(name string, e *config.RemoteWriteConfig, external labels.Labels, c *client, old *sender) (*sender, error) {
	now := w.cfg.Now().UnixMilli()
	var st *state
	if old != nil {
		st = old.state
	} else {
		var err error
		if st, err = openState(w.cfg.Dir, name, now, w.cfg.Damaged); err != nil {
			return nil, err
		}
	}
	w.metrics.begin(name)
	return &sender{
		name: name, cfg: e, external: external, client: c, db: w.cfg.DB, tap: w.cfg.Tap, state: st, now: w.cfg.Now,
		log: w.cfg.Log.With("remote", name), metrics: w.metrics,
		readTo: st.cursor(), unsureTo: now, // of before the start the last answer may not have been noted
		quit:       make(chan struct{}),
		replaces:   old,
		maxSamples: e.QueueConfig.MaxSamplesPerSend,
		minBackoff: time.Duration(e.QueueConfig.MinBackoff), maxBackoff: time.Duration(e.QueueConfig.MaxBackoff),
	}, nil
}

func (s *sender) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	if s.replaces != nil {
		s.tap.replace(s.replaces, s)
		s.replaces = nil
	} else {
		s.tap.join(s)
	}
	s.stopped.Go(func() { s.run(ctx) })
}

// stop ends the goroutine, after the round that is under way or when ctx ends. What it was doing is taken up again from the
// cursor. The tap goes on noting late samples for it until it leaves or is replaced.
func (s *sender) stop(ctx context.Context) {
	close(s.quit)
	defer context.AfterFunc(ctx, s.cancel)()
	s.stopped.Wait()
	s.cancel()
}

func (s *sender) run(ctx context.Context) {
	ticker := time.NewTicker(time.Duration(s.cfg.QueueConfig.BatchSendDeadline))
	defer ticker.Stop()
	for {
		s.round(ctx, settle)
		select {
		case <-s.quit:
			return
		case <-ticker.C:
		}
	}
}

// flush sends everything that there is, once, after stop.
func (s *sender) flush(ctx context.Context) { s.round(ctx, 0) }

// round sends what there is up to a moment ago. A request that fails is repeated until ctx ends.
func (s *sender) round(ctx context.Context, ago time.Duration) {
	err := s.rewind()
	if err == nil {
		err = s.sendAll(ctx, s.now().Add(-ago).UnixMilli())
	}
	if err == nil {
		err = s.sendFamilies(ctx)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	s.metrics.readFailures.WithLabelValues(s.name).Inc()
	s.log.Error("remote write cannot read what it should send; it tries again", "err", err)
}

// rewind takes the cursor back where more has come late than could be noted, or where the clock has gone back behind it:
// what comes from now on is not late. What is sent a second time then changes nothing at the receiver.
func (s *sender) rewind() error {
	if earliest, flooded := s.tap.flooded(s); flooded {
		s.unsureTo = max(s.unsureTo, s.state.cursor())
		if err := s.state.move(earliest - 1); err != nil {
			return err
		}
		return s.tap.settle(s)
	}
	now := s.now().UnixMilli()
	if s.state.cursor() <= now+clockTolerance.Milliseconds() {
		return nil
	}
	s.log.Warn("the clock has gone back; remote write goes on from now", "cursor", time.UnixMilli(s.state.cursor()).UTC())
	s.unsureTo = max(s.unsureTo, s.state.cursor())
	s.tap.unseal(s, now)
	return s.state.move(now)
}

// sendAll sends what is between the cursor and a time, and what came late by then, together with the first of it.
func (s *sender) sendAll(ctx context.Context, until int64) error {
	late := s.tap.takeLate(s, until)
	for {
		cursor := s.state.cursor()
		end := max(cursor, s.tap.seal(s, min(cursor+chunk.Milliseconds(), until)))
		if end == cursor && len(late) == 0 {
			return errors.Join(s.tap.settle(s), s.sendExemplars(ctx)) // what was open when late ones had been sent kept them announced
		}
		b, err := s.read(ctx, cursor, end, late)
		if err == nil {
			err = s.send(ctx, b, s.moveTo)
		}
		if err != nil {
			s.tap.giveBack(s, late)
			return err
		}
		if len(late) > 0 {
			late = nil
			if err := s.tap.settle(s); err != nil {
				return err
			}
		}
		s.state.skip(end) // there is nothing between, so a crash may forget it
		s.show(end)
	}
}

// moveTo notes that everything up to a time has been taken. Late samples are behind the cursor already.
func (s *sender) moveTo(t int64) error {
	if t <= s.state.cursor() {
		return nil
	}
	s.show(t)
	return s.state.move(t)
}

func (s *sender) show(cursor int64) {
	s.metrics.sentUntil.WithLabelValues(s.name).Set(float64(cursor) / 1000)
}

// send sends a batch in requests, and calls taken after each with the time up to which the batch has been taken.
func (s *sender) send(ctx context.Context, b *batch, taken func(through int64) error) error {
	for rest := b.samples; len(rest) > 0; {
		n, through := cut(rest, s.maxSamples)
		c := &content{series: b.series, samples: rest[:n], exemplars: s.takeExemplars()}
		if err := s.deliver(ctx, c); err != nil {
			return err
		}
		if err := taken(through); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// sendExemplars sends what no samples took along.
func (s *sender) sendExemplars(ctx context.Context) error {
	if exemplars := s.takeExemplars(); len(exemplars) > 0 {
		return s.deliver(ctx, &content{exemplars: exemplars})
	}
	return nil
}

// takeExemplars returns the exemplars for the next request, as the endpoint wants their series.
func (s *sender) takeExemplars() (wanted []labelled) {
	if !s.cfg.SendExemplars {
		return nil
	}
	builder := labels.NewBuilder(labels.EmptyLabels())
	for _, e := range s.tap.takeExemplars(s, s.maxSamples) {
		if sent, keep := s.relabel(builder, e.series); keep {
			wanted = append(wanted, labelled{sent, e.Exemplar})
		}
	}
	return wanted
}

// sendFamilies sends the metadata of all families, as 1.0 does from time to time. In 2.0 they go with the samples.
func (s *sender) sendFamilies(ctx context.Context) error {
	if s.client.isV2() || !s.cfg.MetadataConfig.Send || s.now().Sub(s.described) < time.Duration(s.cfg.MetadataConfig.SendInterval) {
		return nil
	}
	families := s.tap.families()
	if len(families) == 0 {
		return nil
	}
	for names := range slices.Chunk(slices.Sorted(maps.Keys(families)), s.cfg.MetadataConfig.MaxSamplesPerSend) {
		part := map[string]metadata.Metadata{}
		for _, name := range names {
			part[name] = families[name]
		}
		if err := s.deliver(ctx, &content{families: part}); err != nil {
			return err
		}
	}
	s.described = s.now()
	return nil
}

func (s *sender) encode(c *content) ([]byte, error) {
	if s.client.isV2() {
		return encode2(c, s.tap.describe)
	}
	return encode1(c)
}

// String names the sender in failures of tests and in debuggers.
func (s *sender) String() string { return fmt.Sprintf("sender to %s", s.name) }
