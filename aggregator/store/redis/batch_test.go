package redis_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
	"usaged/aggregator/store/redis/redistest"
)

// references is a rollup by reference.
var references = meter.MeterRollup("queries", meter.ByReference)

// batch returns a batch of producer "p" that touches every kind of key: an event of user "u" today, a reference, a lifetime
// total, and a claim that lies in bucket 0.
func batch(prev, last uint64) *store.Batch {
	now := time.Now()
	b := &store.Batch{Producer: "p", Session: 1, Prev: prev, Last: last, Days: map[event.Day]*meter.DayDelta{
		event.DayOf(now): {
			Types: map[string]uint64{"t": 1},
			Rollups: map[meter.Rollup]meter.Cells{
				meter.TypeRollup("t"):                      {"u": 1},
				meter.MeterRollup("queries", meter.ByUser): {"u": 1},
				references: {"select 1": 1},
			},
		},
	}}
	b.Totals = meter.Totals{{Family: meter.FamilyEvents, A: "t"}: last}
	b.Claims = []store.Claim{{Digest: [16]byte{15: byte(last)}, AcceptedMillis: now.UnixMilli()}}
	return b
}

// mustApply applies a batch that must take effect.
func mustApply(tb testing.TB, s store.Store, b *store.Batch) {
	tb.Helper()
	if out, err := s.Apply(tb.Context(), b); err != nil || !out.Applied {
		tb.Fatalf("Apply = %+v, %v", out, err)
	}
}

// content returns every key with its value and expiry, except usage:meta.
func content(srv *redistest.Server) map[string]string {
	all := make(map[string]string)
	for _, key := range keys(srv) {
		if key != "usage:meta" {
			all[key] = srv.Do("DUMP", key) + srv.Do("EXPIRETIME", key)
		}
	}
	return all
}

func keys(srv *redistest.Server) []string {
	text := srv.Do("KEYS", "*")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// metric returns the value of a metric as text, "" where there is none.
func metric(set *vm.Set, name string) string {
	var buf bytes.Buffer
	set.WritePrometheus(&buf)
	for line := range strings.SplitSeq(buf.String(), "\n") {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return value
		}
	}
	return ""
}

func errorsMetric(class string) string {
	return fmt.Sprintf("usaged_store_redis_errors_total{class=%q}", class)
}
