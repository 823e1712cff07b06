package storetest

import (
	"fmt"
	"slices"
	"strings"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// hostileStrings are what clients send to break keys, statements and encodings. All differ, many of them barely.
func hostileStrings() []string {
	all := []string{
		"", " ", "  ", "a", "A", "a ", " a", "aa",
		"a:b", "a:", ":a", "::", "day:2026-11-23:type:a", "a:type:b",
		"a{evil}", "{p0}", "{}", "}{", "{", "}", "usage:{p1}:meta",
		"a\nb", "a\r\nb", "a\tb", "\n", "\x00", "a\x00", "a\x00b", "\x00a", "\x01", "\x1f", "\x7f",
		"%", "%%", "%00", "%7B", "%25", "%s", "%!d",
		"'", "''", `"`, `""`, "`", "a'b", "\\", "\\\\", `\x00`, "$1", "?", "?1", ":name", "@name",
		"--", "/* */", ";", "'; DROP TABLE cell; --", "*", "_", "a_b", "a%b", "[a]", "NULL", "null", "nil",
		"0", "00", "1", "1.0", "1e0", "01", "-1", "9007199254740993", "true", "x'41'",
		"é", "e\u0301", "É", "ß", "ss", "ẞ", "İ", "i", "ı", "用户", "пользователь", "🦊", "👩‍👩‍👧", "\u202eabc", "\u200b", "\ufeff", "\ufeffa",
		"\xff", "\xff\xfe", "\xc3", "\xc3\x28", "\xed\xa0\x80", "a\xff",
		strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("x", 255) + "y", "y" + strings.Repeat("x", 255),
		strings.Repeat("🦊", 64), strings.Repeat("\x00", 256), strings.Repeat("'", 256), strings.Repeat(":", 256), strings.Repeat("%", 256),
	}
	for c := range 128 {
		all = append(all, fmt.Sprintf("every byte %c", c))
	}
	return all
}

func sortedStrings(s []string) []string { return slices.Sorted(slices.Values(s)) }

var keyPromises = []promise{
	{"keeps any users apart", func(f *fixture) {
		f.testUsers(meter.TypeRollup("t"))
	}},
	{"keeps any users of a meter apart", func(f *fixture) {
		f.testUsers(meter.MeterRollup("tokens", meter.ByUser))
	}},
	{"keeps any references apart", func(f *fixture) {
		want := make(meter.Cells)
		for p := range f.partitions {
			b := f.batch(0, 1)
			b.Partition = p
			for i, s := range hostileStrings() {
				cell(b, f.today, references, s, uint64(i+1))
				want.Add(s, uint64(i+1))
			}
			f.mustApply(b)
		}
		f.wantSum(want, references, f.today)
		f.wantSum(want, references, f.today, f.today-1)
	}},
	{"keeps any types apart", func(f *fixture) {
		b, want := f.batch(0, 1), make(map[string]uint64)
		for i, t := range hostileStrings() {
			if t == "" {
				continue
			}
			events(b, f.today, t, f.user(), uint64(i+1))
			want[t] = uint64(i + 1)
		}
		f.mustApply(b)
		f.wantTypes(want, f.today)
		for t, n := range want {
			f.wantSum(meter.Cells{f.user(): n}, meter.TypeRollup(t), f.today)
		}
	}},
	{"keeps a user, a type and a day that look alike apart", func(f *fixture) {
		b := f.batch(0, 1)
		day := f.today.String()
		events(b, f.today, day, "t", 1)
		events(b, f.today, "t", day, 2)
		events(b, f.today-1, "t", day, 4)
		f.mustApply(b)
		f.wantSum(meter.Cells{"t": 1}, meter.TypeRollup(day), f.today)
		f.wantSum(meter.Cells{day: 6}, meter.TypeRollup("t"), f.today, f.today-1)
	}},
	{"treats event.Other as an ordinary user", func(f *fixture) {
		b := f.batch(0, 1)
		events(b, f.today, "t", event.Other, 3)
		f.mustApply(b)
		f.wantSum(meter.Cells{event.Other: 3}, meter.TypeRollup("t"), f.today)
	}},
}

// testUsers adds each hostile string as a user twice, with a value of its own.
func (f *fixture) testUsers(r meter.Rollup) {
	batches, want := make(map[int]*store.Batch), make(meter.Cells)
	for i, user := range hostileStrings() {
		p := store.PartitionOf([]byte(user), f.partitions)
		if batches[p] == nil {
			batches[p] = f.batch(0, 1)
			batches[p].Partition = p
		}
		if r.Meter == "" {
			delta(batches[p], f.today).Types[r.Type] += uint64(i + 1)
		}
		cell(batches[p], f.today, r, user, uint64(i+1))
		want[user] = 2 * uint64(i+1)
	}
	for _, b := range batches {
		f.mustApply(b)
		b.Prev, b.Last = 1, 2
		f.mustApply(b)
	}
	f.wantSum(want, r, f.today)
}
