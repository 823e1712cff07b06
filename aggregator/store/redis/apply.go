package redis

import (
	"context"
	_ "embed"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	client "github.com/redis/go-redis/v9"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

//go:embed apply.lua
var applySource string

// maxTakeoverBytes bounds the list of a producer's takeovers in one partition, some 20 bytes for each that found new events
// applied: more than 2,000 restarts.
const maxTakeoverBytes = 64 << 10

var applyScript = client.NewScript(fmt.Sprintf("local OTHER, MAX_TOTAL, MAX_TYPES, MAX_REFERENCES, MAX_TAKEOVERS, WINDOW = %q, %d, %d, %d, %d, %d\n",
	event.Other, uint64(meter.MaxTotal), store.MaxTypesPerDay, store.MaxReferencesPerDay, maxTakeoverBytes, store.DuplicateWindow.Milliseconds()) + applySource)

// Apply adds one batch, see store.Store. It does not begin after ctx has ended, but once it has begun it waits for the
// reply as long as callTimeout allows: a script that was sent may run after we have stopped waiting.
func (s *Store) Apply(ctx context.Context, batch *store.Batch) (store.Outcome, error) {
	if err := batch.Check(len(s.spaces)); err != nil {
		return store.Outcome{}, fmt.Errorf("apply batch: %w", err)
	}
	doing := "apply batch to partition " + strconv.Itoa(batch.Partition)
	if err := ctx.Err(); err != nil {
		return store.Outcome{}, fmt.Errorf("%s: %w", doing, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(callTimeout, s.patience))
	defer cancel()
	if err := s.contact(ctx); err != nil {
		return store.Outcome{}, s.fail(doing, err)
	}
	newest := s.newestOf(batch.Claims)
	for {
		req, err := encode(s.spaces[batch.Partition], batch, newest)
		if err != nil {
			return store.Outcome{}, fmt.Errorf("%s: %w", doing, err)
		}
		reply, err := applyScript.Run(ctx, s.client, req.keys, req.args()...).Slice()
		if err != nil {
			return store.Outcome{}, s.fail(doing, err)
		}
		if len(reply) > 0 && reply[0] == "later" && newest < farFuture {
			// Another process has accepted ids on a later day than we know of. Look at the day after each claim.
			newest = farFuture
			continue
		}
		out, err := readOutcome(reply)
		if err != nil {
			return out, fmt.Errorf("%s: %w", doing, err)
		}
		return out, nil
	}
}

// farFuture is a day after all that are accepted.
const farFuture = event.Day(math.MaxInt32)

// newestOf returns the newest day on which an id was accepted that is among the claims or was among earlier ones. What
// other processes have accepted later is found out by the script.
func (s *Store) newestOf(claims []store.Claim) event.Day {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range claims {
		day, _ := acceptedOn(c.AcceptedMillis)
		s.newest = max(s.newest, day)
	}
	return s.newest
}

// readOutcome reads what apply.lua returns.
func readOutcome(reply []any) (store.Outcome, error) {
	unexpected := fmt.Errorf("script returned %v", reply)
	if len(reply) < 2 {
		return store.Outcome{}, unexpected
	}
	var out store.Outcome
	var err error
	text, _ := reply[1].(string)
	if out.Offset, err = strconv.ParseUint(text, 10, 64); err != nil {
		return store.Outcome{}, unexpected
	}
	numbers := make([]uint64, len(reply)-2)
	for i, v := range reply[2:] {
		n, ok := v.(int64)
		if !ok {
			return store.Outcome{}, unexpected
		}
		numbers[i] = uint64(n)
	}
	switch {
	case reply[0] == "fenced":
		return out, store.ErrFenced
	case reply[0] == "taken":
		for _, n := range numbers {
			out.Taken = append(out.Taken, int(n))
		}
		slices.Sort(out.Taken)
		return out, nil
	case (reply[0] == "applied" || reply[0] == "mismatch") && len(numbers) == 2:
		out.Applied = reply[0] == "applied"
		out.Overflow = store.Overflow{Types: numbers[0], References: numbers[1]}
		return out, nil
	default:
		return store.Outcome{}, unexpected
	}
}

// Expire does nothing: keys expire by themselves.
func (s *Store) Expire(context.Context, event.Day, time.Time) error { return nil }
