package embedded

import (
	"fmt"
	"runtime/debug"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"
)

// recovered, deferred, turns a panic into an error. It is for work on files of the TSDB, whose content may be anything and which
// are read through memory maps: see memoryFaults.
func recovered(failed func(error)) {
	if v := recover(); v != nil {
		failed(fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
	}
}

// memoryFaults makes a read error of a mapped file a panic of this goroutine, which can be recovered, until the function it
// returns is called. Otherwise the kernel's signal would end the process.
func memoryFaults() (end func()) {
	before := debug.SetPanicOnFault(true)
	return func() { debug.SetPanicOnFault(before) }
}

// guardedCompactor is a compactor whose panics are errors, so that a block with damage that shows when it is read does not end the
// daemon. The TSDB counts the error in prometheus_tsdb_compactions_failed_total and tries again.
type guardedCompactor struct{ tsdb.Compactor }

func (c guardedCompactor) Plan(dir string) (dirs []string, err error) {
	defer memoryFaults()()
	defer recovered(func(cause error) { err = fmt.Errorf("plan a compaction: %w", cause) })
	return c.Compactor.Plan(dir)
}

func (c guardedCompactor) Write(dest string, b tsdb.BlockReader, mint, maxt int64, base *tsdb.BlockMeta) (ids []ulid.ULID, err error) {
	defer memoryFaults()()
	defer recovered(func(cause error) { err = fmt.Errorf("write a block: %w", cause) })
	return c.Compactor.Write(dest, b, mint, maxt, base)
}

func (c guardedCompactor) Compact(dest string, dirs []string, open []*tsdb.Block) (ids []ulid.ULID, err error) {
	defer memoryFaults()()
	defer recovered(func(cause error) { err = fmt.Errorf("compact blocks: %w", cause) })
	return c.Compactor.Compact(dest, dirs, open)
}
