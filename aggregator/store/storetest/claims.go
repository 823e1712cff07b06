package storetest

import (
	"time"

	"usaged/aggregator/store"
)

// digest returns a digest that begins with b.
func digest(b byte) [16]byte { return [16]byte{b, 0, 0xff, '\n', '}', 15: b} }

func claim(b byte, at time.Time) store.Claim {
	return store.Claim{Digest: digest(b), AcceptedMillis: at.UnixMilli()}
}

// claiming returns a full batch that claims nothing else.
func (f *fixture) claiming(prev uint64, claims ...store.Claim) *store.Batch {
	b := f.fullBatch(prev, prev+1, 0)
	b.Claims = claims
	return b
}

func (f *fixture) wantTaken(b *store.Batch, taken ...int) {
	f.Helper()
	f.wantOutcome(b, store.Outcome{Offset: b.Prev, Taken: taken})
}

// offset returns the offset of producer "p" in the fixture's partition.
func (f *fixture) offset() uint64 { return f.producer(f.partition(), "p").Offset }

var claimPromises = []promise{
	{"finds a claim taken within 24 h of it, before and after", testWindow},
	{"remembers each acceptance of an id", func(f *fixture) {
		at := f.now.Add(-50 * time.Hour)
		f.mustApply(f.claiming(0, claim(1, at)))
		f.mustApply(f.claiming(1, claim(1, at.Add(30*time.Hour))))
		for _, h := range []time.Duration{-23, 0, 3, 15, 29, 30, 31, 53} {
			f.wantTaken(f.claiming(2, claim(1, at.Add(h*time.Hour))), 0)
		}
	}},
	{"lists all taken claims, in ascending order", func(f *fixture) {
		f.mustApply(f.claiming(0, claim(9, f.now), claim(2, f.now), claim(5, f.now)))
		some := f.claiming(1)
		for _, id := range []byte{1, 9, 3, 5, 2, 7} {
			some.Claims = append(some.Claims, claim(id, f.now))
		}
		f.wantTaken(some, 1, 3, 4)
		many, want := f.claiming(1), []int(nil)
		for i := range 600 {
			many.Claims = append(many.Claims, store.Claim{Digest: [16]byte{byte(i), byte(i >> 8), 3}, AcceptedMillis: f.now.UnixMilli()})
			if i%50 == 7 {
				many.Claims[i] = claim(5, f.now)
				want = append(want, i)
			}
		}
		f.wantTaken(many, want...)
	}},
	{"records none of a batch's claims where one is taken", func(f *fixture) {
		f.mustApply(f.claiming(0, claim(1, f.now)))
		f.wantTaken(f.claiming(1, claim(2, f.now), claim(1, f.now), claim(3, f.now)), 1)
		f.mustApply(f.claiming(1, claim(2, f.now), claim(3, f.now)))
	}},
	{"records none of a batch's claims where the offset doesn't match", func(f *fixture) {
		f.wantMismatch(f.claiming(7, claim(1, f.now)), 0)
		f.mustApply(f.claiming(0, claim(1, f.now)))
	}},
	{"looks at the offset first: a repeated batch doesn't conflict with itself", func(f *fixture) {
		b := f.claiming(0, claim(1, f.now))
		f.mustApply(b)
		f.wantMismatch(b, 1)
	}},
	{"finds no conflict among the claims of one batch", func(f *fixture) {
		at := f.now.Add(-50 * time.Hour)
		f.mustApply(f.claiming(0, claim(1, at), claim(1, at), claim(1, at.Add(time.Minute)), claim(1, at.Add(24*time.Hour))))
		f.wantTaken(f.claiming(1, claim(1, at.Add(-time.Hour))), 0)
		f.wantTaken(f.claiming(1, claim(1, at.Add(25*time.Hour))), 0)
	}},
	{"finds a claim of another producer", func(f *fixture) {
		f.mustApply(f.claiming(0, claim(1, f.now)))
		b := f.claiming(0, claim(1, f.now))
		b.Producer = "q"
		f.wantTaken(b, 0)
	}},
	{"compares checks with the claims, and doesn't record them", func(f *fixture) {
		f.mustApply(f.claiming(0, claim(1, f.now), claim(3, f.now)))
		check := f.claiming(1, claim(2, f.now), claim(3, f.now))
		check.Checks = []store.Claim{claim(4, f.now), claim(1, f.now), claim(4, f.now.Add(time.Minute)), claim(1, f.now.Add(30*time.Hour))}
		f.wantTaken(check, 1, 3)
		check.Claims = check.Claims[:1]
		f.wantTaken(check, 2)
		check.Checks = []store.Claim{claim(4, f.now), claim(4, f.now.Add(time.Minute)), claim(5, f.now.Add(-24*time.Hour))}
		f.mustApply(check)
		f.wantTaken(f.claiming(2, claim(4, f.now), claim(5, f.now), claim(2, f.now)), 2)
	}},
	{"tells digests apart that differ in one bit", func(f *fixture) {
		var claims []store.Claim
		for i := range 128 {
			c := claim(1, f.now)
			c.Digest[i/8] ^= 1 << (i % 8)
			claims = append(claims, c)
		}
		f.mustApply(f.claiming(0, claims...))
		f.mustApply(f.claiming(1, claim(1, f.now)))
		zeros := store.Claim{AcceptedMillis: f.now.UnixMilli()}
		f.mustApply(f.claiming(2, zeros))
		f.wantTaken(f.claiming(3, zeros), 0)
	}},
	{"keeps partitions apart", func(f *fixture) {
		for p := range f.partitions {
			b := f.claiming(0, claim(1, f.now))
			b.Partition = p
			f.mustApply(b)
		}
	}},
	{"takes a batch that has claims alone", func(f *fixture) {
		b := f.batch(0, 1)
		b.Claims = []store.Claim{claim(1, f.now)}
		f.mustApply(b)
		f.wantTaken(f.claiming(1, claim(1, f.now)), 0)
	}},
	{"takes thousands of claims at once", func(f *fixture) {
		b := f.batch(0, 1)
		for i := range 3000 {
			digest := store.DigestOf(store.ServiceIDs, []byte("user"), nil, []byte{byte(i), byte(i >> 8)})
			b.Claims = append(b.Claims, store.Claim{Digest: digest, AcceptedMillis: f.now.UnixMilli()})
		}
		f.mustApply(b)
		b.Prev, b.Last = 1, 2
		if out := f.apply(b); out.Applied || len(out.Taken) != 3000 {
			f.Errorf("applied %t with %d claims taken, want all 3000", out.Applied, len(out.Taken))
		}
	}},
}

// testWindow claims around acceptances at noon and on either side of midnight, where a store that keeps claims per day
// might look at the wrong one.
func testWindow(f *fixture) {
	midnight := f.now.Truncate(24 * time.Hour)
	bases := []time.Time{midnight, midnight.Add(-time.Millisecond), midnight.Add(-12 * time.Hour)}
	distances := []struct {
		distance time.Duration
		taken    bool
	}{
		{0, true},
		{time.Millisecond, true},
		{12 * time.Hour, true},
		{24*time.Hour - time.Millisecond, true},
		{24 * time.Hour, false},
		{24*time.Hour + time.Millisecond, false},
		{28 * time.Hour, false},
	}
	id := byte(0)
	for _, base := range bases {
		for _, d := range distances {
			for _, sign := range []time.Duration{-1, 1} {
				id++
				f.mustApply(f.claiming(f.offset(), claim(id, base)))
				second := f.claiming(f.offset(), claim(id, base.Add(sign*d.distance)))
				if d.taken {
					f.wantTaken(second, 0)
				} else {
					f.mustApply(second)
				}
			}
		}
	}
}
