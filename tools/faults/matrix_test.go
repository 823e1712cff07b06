package faults

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"usaged/aggregator/store/redis/redistest"
)

var (
	timesFlag  = flag.Int("times", 0, "trials of each row; 0: the short form, which is part of make test")
	seedFlag   = flag.Uint64("seed", 1, "seed of the first trial of each row; the next trials take the following numbers")
	faultsFlag = flag.String("faults", "", "rows to run, as kills,flips; empty: all")
	storesFlag = flag.String("stores", "sqlite,redis", "stores to run them on")
)

// row is a kind of fault.
type row struct {
	name string
	// short is how many trials the short form has.
	short int
	// only is the one store that the fault can be tried on; empty: both.
	only string
	run  func(*trial) verdict
	// prepare makes once what the trials share; nil: nothing.
	prepare func(t *testing.T, store string) any
}

// rows are the rows of the matrix.
func rows() []row {
	return []row{
		{name: "kills", short: 2, run: kills},
		{name: "calls-once", short: 4, run: func(tr *trial) verdict { return calls(tr, false) }},
		{name: "calls-lasting", short: 2, run: func(tr *trial) verdict { return calls(tr, true) }},
		{name: "flips", short: 4, run: flips, prepare: makeSample},
		{name: "deletions", short: 3, run: deletions, prepare: makeSample},
		{name: "powercuts", short: 3, run: powerCuts},
		{name: "redis", short: 3, only: "redis", run: redisChaos},
		{name: "identity", short: 2, run: identity},
		{name: "clock", short: 2, run: clock},
	}
}

// trial is one run of a fault.
type trial struct {
	*testing.T
	store string
	seed  uint64
	rng   *rand.Rand
	// shared is what the row's prepare returned.
	shared any
	redis  *redistest.Server // nil: the embedded database
	proxy  *redistest.Proxy  // between the daemons and Redis; nil: none
	// label says what was tried, for the report.
	label string
}

// spread returns for the turns 0, 1, 2 … numbers below n, far from each other, each once in n turns.
func spread(turn, n int) int {
	const stride = 7919 // a prime: it has no factor in common with any n that is not a multiple of it
	if n%stride == 0 {
		return turn % n
	}
	return turn % n * stride % n
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// fork returns random numbers for something that goes on beside the trial.
func (tr *trial) fork(n uint64) *rand.Rand { return rand.New(rand.NewPCG(tr.rng.Uint64(), n)) }

// line is a line of the table.
type line struct {
	fault, store string
	trials       int
	outcomes     map[outcome]int
}

// TestFaults runs the matrix.
func TestFaults(t *testing.T) {
	var mu sync.Mutex
	var lines []*line
	t.Run("rows", func(t *testing.T) {
		for _, r := range rows() {
			if *faultsFlag != "" && !slices.Contains(strings.Split(*faultsFlag, ","), r.name) {
				continue
			}
			for store := range strings.SplitSeq(*storesFlag, ",") {
				if r.only != "" && r.only != store {
					continue
				}
				l := &line{fault: r.name, store: store, outcomes: map[outcome]int{}}
				lines = append(lines, l)
				t.Run(r.name+"/"+store, func(t *testing.T) {
					t.Parallel()
					runRow(t, r, store, func(o outcome) {
						mu.Lock()
						defer mu.Unlock()
						l.trials++
						l.outcomes[o]++
					})
				})
			}
		}
	})
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "fault\tstore\ttrials\t")
	for _, o := range outcomes {
		fmt.Fprintf(w, "%s\t", o)
	}
	fmt.Fprintln(w)
	for _, l := range lines {
		fmt.Fprintf(w, "%s\t%s\t%d\t", l.fault, l.store, l.trials)
		for _, o := range outcomes {
			fmt.Fprintf(w, "%d\t", l.outcomes[o])
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if *timesFlag > 0 {
		fmt.Printf("seed %d\n%s", *seedFlag, table.String())
	} else {
		t.Logf("seed %d\n%s", *seedFlag, table.String())
	}
	if len(lines) == 0 {
		t.Fatalf("no row is called %q", *faultsFlag)
	}
}

// runRow runs the trials of one row on one store.
func runRow(t *testing.T, r row, store string, count func(outcome)) {
	t.Helper()
	times := *timesFlag
	if times == 0 {
		times = r.short
	}
	var shared any
	if r.prepare != nil {
		shared = r.prepare(t, store)
	}
	for i := range times {
		seed := *seedFlag + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			tr := &trial{T: t, store: store, seed: seed, rng: newRand(seed), shared: shared}
			v := r.run(tr)
			count(v.outcome)
			if v.outcome.right() {
				t.Logf("%s: %s %s", tr.label, v.outcome, v.detail)
				return
			}
			report := fmt.Sprintf("%s: %s: %.3000s\nagain: make faults FAULTS=%s STORES=%s SEED=%d TIMES=1", tr.label, v.outcome, v.detail, r.name, store, seed)
			t.Error(report)
			if *timesFlag > 0 { // a run of hours shows at once what it has found
				fmt.Println(report)
			}
		})
	}
}

// TestMain removes the daemon that was built.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if dir := programDir.Load(); dir != nil {
		os.RemoveAll(*dir)
	}
	os.Exit(code)
}
