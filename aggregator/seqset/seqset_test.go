package seqset_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"usaged/aggregator/seqset"
)

// A set answers as a map does of all the numbers that were added and not dropped, and its runs are as few as can be.
func TestSetAgreesWithAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var set seqset.Set
		want := map[uint64]bool{}
		number := rapid.Uint64Range(1, 40)
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			first := number.Draw(t, "first")
			switch last := first + rapid.Uint64Range(0, 5).Draw(t, "more"); rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				set.DropThrough(first)
				maps.DeleteFunc(want, func(n uint64, _ bool) bool { return n <= first })
			case 1, 2:
				set.AddRun(seqset.Run{First: first, Last: last})
				for n := first; n <= last; n++ {
					want[n] = true
				}
			default:
				set.Add(first, last)
				want[first], want[last] = true, true
			}
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), set.All()); diff != "" {
			t.Fatalf("numbers (-want +got):\n%s", diff)
		}
		count := uint64(0)
		for n := range uint64(50) {
			if want[n] {
				count++
			}
			if set.Has(n) != want[n] || set.Count(n) != count {
				t.Errorf("%d: in the set %t, %d up to it; want %t, %d", n, set.Has(n), set.Count(n), want[n], count)
			}
		}
		if set.Empty() != (len(want) == 0) {
			t.Errorf("empty %t with %d numbers", set.Empty(), len(want))
		}
		for i, run := range set.Runs() {
			if i > 0 && set.Runs()[i-1].Last+1 >= run.First {
				t.Errorf("runs touch: %v", set.Runs())
			}
		}
	})
}
