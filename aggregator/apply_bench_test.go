package aggregator_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/store/storetest"
)

// BenchmarkApply accepts batches of events and waits until all are applied to a store in memory. The processor's time says what an
// event costs from the journal to the store, also where the machine is busy.
func BenchmarkApply(b *testing.B) {
	const events, batches = 1_000, 200
	for _, partitions := range []int{1, 16} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			d := openDaemon(b, b.TempDir(), storetest.NewMemory(partitions))
			defer d.close()
			list := make([]sent, events)
			for i := range list {
				list[i] = sent{UserID: fmt.Sprintf("user-%05d", i*7919%10_000), Type: fmt.Sprintf("type-%d", i%5)}
			}
			body, err := json.Marshal(list)
			if err != nil {
				b.Fatal(err)
			}
			batch, err := d.decoder.Decode(body, event.JSON, event.Origin{Token: "t", User: "t", AcceptedAt: time.Now(), Oldest: d.agg.Oldest()})
			if err != nil {
				b.Fatal(err)
			}
			before := processorTime(b)
			for b.Loop() {
				for range batches {
					if err := d.agg.Accept(batch); err != nil {
						b.Fatal(err)
					}
				}
				for {
					l, err := d.agg.Ledger(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					if l.All.Pending == 0 {
						break
					}
					runtime.Gosched()
					time.Sleep(time.Millisecond)
				}
			}
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N*batches*events), "cpu-ns/event")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
