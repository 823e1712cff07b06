package waittest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"usaged/tools/waittest"
)

// The clock of these tests moves by itself when all goroutines wait. The stopwatch is left running by nobody: each test ends its
// waits.

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		n := 0
		err := waittest.Retry(func() error {
			if n++; time.Since(began) > 5*waittest.Patience {
				return nil
			}
			return fmt.Errorf("%d", n) // it moves
		})
		if err != nil {
			t.Errorf("it gave up although the error changed: %v", err)
		}
		stuck := errors.New("stuck")
		began = time.Now()
		if err := waittest.Retry(func() error { return stuck }); !errors.Is(err, stuck) {
			t.Errorf("got %v, want the error of the check", err)
		}
		if took := time.Since(began); took < waittest.Patience || took > 2*waittest.Patience {
			t.Errorf("it gave up after %s", took)
		}
		time.Sleep(time.Second) // the stopwatch ends
	})
}

func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := waittest.Context(t.Context())
		defer cancel()
		<-ctx.Done()
		if errors.Is(context.Cause(ctx), context.Canceled) {
			t.Errorf("the cause is %v", context.Cause(ctx))
		}
		c := make(chan struct{})
		if waittest.Closed(c) {
			t.Error("the channel was not closed")
		}
		close(c)
		if !waittest.Closed(c) {
			t.Error("the channel was closed")
		}
		time.Sleep(time.Second) // the stopwatch ends
	})
}
