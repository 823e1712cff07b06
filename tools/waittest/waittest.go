// Package waittest waits in tests for what happens in other goroutines and processes, and tells what is slow from what hangs.
//
//	waittest.Until(t, "apply what was accepted", func() error {
//		if n := pending(); n > 0 {
//			return fmt.Errorf("%d events are pending", n)
//		}
//		return nil
//	})
//
// A wait goes on as long as its error changes, up to ten times [Patience]: then something moves. Where nothing changes it ends after
// Patience, which is measured in work that the machine does and not in time: a machine that is ten times as busy gets ten times as
// long, because the stopwatch stands still while this process waits for a processor. Everything here is safe for concurrent use.
package waittest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"regexp"
	"sync"
	"testing"
	"time"
)

// Patience is how long nothing may move on a machine that has nothing else to do. It is spent in a failure alone.
const Patience = 2 * time.Minute

const (
	// atMost is how long something may move without an end.
	atMost = 10 * Patience
	// lap is how long the stopwatch sleeps. Whatever a lap takes, it counts as one.
	lap = 50 * time.Millisecond
	// lapWork is what it hashes in a lap, half a millisecond's work: only who gets a processor completes laps.
	lapWork = 256 << 10
	// poll is how often conditions are looked at.
	poll = 5 * time.Millisecond
)

// stopwatch counts laps while somebody waits.
type stopwatch struct {
	mu      sync.Mutex
	waiting int
	laps    int
	running bool
}

var watch stopwatch

// join says that somebody waits, until leave is called.
func (s *stopwatch) join() (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting++
	if !s.running {
		s.running = true
		go s.run()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting--
	}
}

// run ends when nobody waits.
func (s *stopwatch) run() {
	work := make([]byte, lapWork)
	for {
		time.Sleep(lap)
		sum := sha256.Sum256(work)
		work[0] = sum[0]
		s.mu.Lock()
		s.laps++
		if s.waiting == 0 {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

func (s *stopwatch) elapsed() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(s.laps) * lap
}

// Until repeats a check until it returns nil. It fails the test where the check's error is the same for Patience.
func Until(tb testing.TB, what string, check func() error) {
	tb.Helper()
	if err := Retry(check); err != nil {
		tb.Fatalf("%s: nothing has moved for %s of an idle machine's time: %v", what, Patience, err)
	}
}

// Retry is Until that returns the last error.
func Retry(check func() error) error { return RetryFor(Patience, check) }

// RetryFor is Retry that gives up after another time in which nothing moves: for a test that waits until something comes to rest.
func RetryFor(patience time.Duration, check func() error) error {
	leave := watch.join()
	defer leave()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	began := watch.elapsed()
	last, since := "", began
	for {
		err := check()
		if err == nil {
			return nil
		}
		now := port.ReplaceAllString(err.Error(), ":port")
		if now != last {
			last, since = now, watch.elapsed()
		}
		if at := watch.elapsed(); at-since > patience || at-began > atMost {
			return err
		}
		<-tick.C
	}
}

// port finds what differs in the errors of one address: each connection has a port of its own.
var port = regexp.MustCompile(`:[0-9]{4,5}\b`)

// Closed waits until a channel is closed or sends something, and says whether it did.
func Closed[T any](c <-chan T) bool {
	ctx, cancel := Context(context.Background())
	defer cancel()
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}

// Context returns a context that ends after Patience. Its cause says so.
func Context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	leave := watch.join()
	began := watch.elapsed()
	go func() {
		defer leave()
		tick := time.NewTicker(lap)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if watch.elapsed()-began > Patience {
				cancel(fmt.Errorf("it hangs: not done after %s of an idle machine's time", Patience))
			}
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}
