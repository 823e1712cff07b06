package remotewrite

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sort"
	"time"
)

// errNothingWritten is an answer of success from a receiver of 1.0 that did not look at what it was sent.
var errNothingWritten = errors.New("the receiver does not say what it has written, so it may not speak remote write 2.0: set protobuf_message to prometheus.WriteRequest")

const (
	// minBackoffBusy is the least wait where there are too many requests.
	minBackoffBusy = time.Second
	// rest is how many times the longest backoff is waited after a refusal that is about the way to the receiver: a minute by
	// default, since a person has to do something about it.
	rest = 12
	// refusedLogInterval bounds the log of refusals.
	refusedLogInterval = time.Minute
)

// deliver sends a request until the receiver has taken or refused it, or ctx ends, which is the only error.
func (s *sender) deliver(ctx context.Context, c *content) error {
	if s.classic {
		if c = c.withoutHistograms(); c.isEmpty() {
			return nil
		}
	}
	body, err := s.encode(c)
	if err != nil {
		return err
	}
	backoff := s.minBackoff
	for {
		a, err := s.client.post(ctx, body)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && a.ok() && !(s.client.isV2() && !a.written.Confirmed && len(c.samples) > 0):
			s.taken(c, a)
			return nil
		case err == nil && a.noHistograms() && !s.classic:
			s.classic = true
			s.metrics.requests.WithLabelValues(s.name, outcomeRefused).Inc()
			s.log.Warn("the receiver of remote write has native histograms switched off; it is sent the classic ones alone", "err", a)
			return s.deliver(ctx, c)
		case err == nil && a.status == http.StatusBadRequest && len(c.samples) > 1 && c.samples[0].t <= s.unsureTo:
			return s.divide(ctx, c)
		case err == nil && a.isTooLarge() && len(c.halves()) > 0:
			return s.shrink(ctx, c)
		case err == nil && a.final():
			s.refused(c, a)
			return nil
		}
		wait, why := s.setback(c, a, err, backoff)
		s.failed(why)
		if err := pause(ctx, wait); err != nil {
			return err
		}
		backoff = min(2*backoff, s.maxBackoff)
	}
}

// setback says how long to wait before a request is repeated, and why it is.
func (s *sender) setback(c *content, a *answer, err error, backoff time.Duration) (wait time.Duration, why error) {
	switch {
	case err != nil: // it may have taken it, and only the answer was lost
		if n := len(c.samples); n > 0 {
			s.unsureTo = max(s.unsureTo, c.samples[n-1].t)
		}
		return backoff, err
	case a.ok():
		return rest * s.maxBackoff, errNothingWritten
	case a.status/100 == 5 || a.isTooEarly():
		return max(backoff, a.retryAfter), a
	case a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout:
		return max(backoff, minBackoffBusy, a.retryAfter), a
	default:
		return max(rest*s.maxBackoff, a.retryAfter), a
	}
}

// divide sends a request in parts, since some of its samples may be there already, and a receiver without a window for
// samples out of order refuses the others with them.
func (s *sender) divide(ctx context.Context, c *content) error {
	half := len(c.samples) / 2
	if first, last := c.samples[0].t, c.samples[len(c.samples)-1].t; first != last {
		middle := c.samples[half].t
		half = sort.Search(len(c.samples), func(i int) bool { return c.samples[i].t >= middle })
		if half == 0 {
			half = sort.Search(len(c.samples), func(i int) bool { return c.samples[i].t > middle })
		}
	}
	for _, part := range []*content{
		{series: c.series, samples: c.samples[:half], exemplars: c.exemplars},
		{series: c.series, samples: c.samples[half:]},
	} {
		if err := s.deliver(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// shrink sends a request that was too large in halves, and makes the next ones no larger.
func (s *sender) shrink(ctx context.Context, c *content) error {
	s.metrics.requests.WithLabelValues(s.name, outcomeFailed).Inc()
	if n := len(c.samples) / 2; n > 0 && n < s.maxSamples {
		s.maxSamples = n
		s.log.Info("a request of remote write was too large for the receiver; it is sent smaller ones", "max_samples", n)
	}
	for _, part := range c.halves() {
		if err := s.deliver(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// taken counts a request that was answered with success. In 2.0 the receiver says how much of it it has written.
func (s *sender) taken(c *content, a *answer) {
	if s.failing {
		s.failing = false
		s.log.Info("remote write goes on")
	}
	written := len(c.samples)
	if s.client.isV2() && a.written.Confirmed {
		written = min(written, a.written.AllSamples())
	}
	s.count(c, written)
	s.metrics.exemplars.WithLabelValues(s.name, outcomeSent).Add(float64(len(c.exemplars)))
	s.metrics.requests.WithLabelValues(s.name, outcomeSent).Inc()
}

// count counts the samples of a request of which so many were written.
func (s *sender) count(c *content, written int) {
	s.metrics.samples.WithLabelValues(s.name, outcomeSent).Add(float64(written))
	s.metrics.samples.WithLabelValues(s.name, outcomeRefused).Add(float64(len(c.samples) - written))
}

// refused counts a request that the receiver will never take, or took in part, as a receiver of 2.0 may and says.
func (s *sender) refused(c *content, a *answer) {
	s.count(c, min(len(c.samples), a.written.AllSamples()))
	s.metrics.exemplars.WithLabelValues(s.name, outcomeRefused).Add(float64(len(c.exemplars)))
	s.metrics.requests.WithLabelValues(s.name, outcomeRefused).Inc()
	if now := s.now(); now.Sub(s.refusedAt).Abs() >= refusedLogInterval {
		s.refusedAt = now
		s.log.Warn("the receiver of remote write refused samples, which are not sent again", "samples", len(c.samples), "err", a)
	}
}

// failed counts an attempt that will be repeated.
func (s *sender) failed(err error) {
	s.metrics.requests.WithLabelValues(s.name, outcomeFailed).Inc()
	if s.failing {
		s.log.Debug("remote write failed again", "err", err)
		return
	}
	s.failing = true
	s.log.Warn("remote write fails; samples wait in the local TSDB", "err", err)
}

// pause waits, a little longer than asked for so that many senders do not come back at once, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d + rand.N(d/5+1))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
