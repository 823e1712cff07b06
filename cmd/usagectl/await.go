package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"usaged/client"
)

// countPatience is how long to wait for the daemon to count what it accepted: far longer than a daemon needs that has no
// backlog.
const (
	countPatience = 30 * time.Second
	countInterval = 20 * time.Millisecond
)

// awaitCounted waits until the daemon has applied everything that it had accepted before the call. An event that repeats an
// id counts as applied too. It needs an admin's token, since the ledger says so alone.
func awaitCounted(ctx context.Context, s *session) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	deadline := time.Now().Add(countPatience)
	var mark uint64
	for first := true; ; first = false {
		ledger, err := api.Ledger(ctx)
		if err != nil {
			return fmt.Errorf("the events are accepted, and to wait for their count the ledger is needed: %w", err)
		}
		all := ledger.All
		if first {
			mark = all.Accepted
		}
		if all.Accepted-all.Pending >= mark {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New(stillPending(all))
		}
		if err := sleepUntil(ctx, time.Now().Add(countInterval)); err != nil {
			return err
		}
	}
}

func stillPending(a client.Account) string {
	return fmt.Sprintf("the events are accepted, and after %s not counted yet: %s are pending; nothing is lost, see `usagectl ledger`",
		countPatience, thousands(a.Pending))
}
