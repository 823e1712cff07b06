package meter_test

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

func TestParseWhole(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{
		"0": 0, "007": 7, "120": 120, "120.0": 120, "1.2e2": 120, "1e3": 1000, "1E+3": 1000, "1000e-1": 100, "0.0": 0, "-0": 0, "-0.0": 0,
		"12.50e1": 125, "0.9007199254740992e16": 1 << 53, "9007199254740992": 1 << 53, "0e9999": 0,
	} {
		if n, ok := meter.ParseWhole([]byte(text)); !ok || n != want {
			t.Errorf("%q is read as %d, %t, want %d", text, n, ok, want)
		}
	}
	for _, text := range []string{
		"", " ", "12 ", "+1", "-1", "1.5", "1e-1", "1.", ".5", ".", "e3", "1e", "1e+", "1e+-3", "1e3.0", "0x10", "1_000", "1,000", "null", "None", "NaN",
		"Infinity", "true", "9007199254740993", "9007199254740992.5", "1e16", "1e99999999999999999999", "1e-99999999999999999999", "٣",
	} {
		if n, ok := meter.ParseWhole([]byte(text)); ok {
			t.Errorf("%q is read as %d, want no number", text, n)
		}
	}
}

func TestParseWholeAgreesWithExactArithmetic(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.StringMatching(`-?[0-9]{1,18}(\.[0-9]{1,6})?([eE][-+]?[0-9]{1,2})?`).Draw(rt, "number")
		exact, ok := new(big.Rat).SetString(text)
		if !ok {
			rt.Fatalf("%q is no number", text)
		}
		whole := exact.IsInt() && exact.Sign() >= 0 && exact.Num().Cmp(big.NewInt(meter.MaxTotal)) <= 0
		n, ok := meter.ParseWhole([]byte(text))
		if ok != whole || ok && n != exact.Num().Uint64() {
			rt.Fatalf("%q is read as %d, %t, want %s", text, n, ok, exact)
		}
	})
}

// The tokens of a meter and of the metric are the same whatever an event says.
func TestTokensOfMeterAndMetricAgree(t *testing.T) {
	numbers := rapid.SampledFrom([]string{"-", "", "null", "None", "0", "9", "109.0", "1e2", "100", "-3", "1.5", "600000000", "999999999", "1000000001", "9007199254740991"})
	rapid.Check(t, func(rt *rapid.T) {
		metadata := map[string]string{"model": "m"}
		for _, key := range []string{"total_tokens", "prompt_tokens", "completion_tokens"} {
			if v := numbers.Draw(rt, key); v != "-" {
				metadata[key] = v
			}
		}
		delta, _ := fold(t, meter.Builtin(), 0, []sent{{"u", "chat", metadata, now, ""}})
		metric := uint64(0)
		for s, n := range delta.Totals {
			if s.Family == meter.FamilyTokens {
				metric += n
			}
		}
		day := delta.Days[event.DayOf(now)]
		byUser := day.Rollups[meter.MeterRollup("llm-tokens", meter.ByUser)]["u"]
		byModel := day.Rollups[meter.MeterRollup("llm-tokens", meter.ByReference)]["m"]
		if byUser != metric || byModel != metric || metric > 1_000_000_000 {
			rt.Fatalf("%v: %d tokens by user, %d by model, %d in the metric", metadata, byUser, byModel, metric)
		}
	})
}

func TestValuesBeyondTheLimitAreLeftOutAndCounted(t *testing.T) {
	t.Parallel()
	meters := append(meter.Builtin(), meter.Meter{Name: "bytes", Value: "bytes", Max: 5000, Reference: "db"}, meter.Meter{Name: "size", Sum: []string{"bytes", "more"}})
	for _, tt := range []struct {
		metadata    map[string]string
		bytes, size uint64
		bad         uint64
	}{
		{map[string]string{"bytes": "5000"}, 5000, 5000, 0},
		{map[string]string{"bytes": "5001"}, 0, 5001, 1},
		{map[string]string{"bytes": "9007199254740991"}, 0, 0, 1},
		{map[string]string{"bytes": "1000000000000"}, 0, meter.MaxValue, 1},
		{map[string]string{"bytes": "1", "more": "1000000000000"}, 1, 0, 1},
	} {
		delta, stats := fold(t, meters, 0, []sent{{"u", "chat", tt.metadata, now, ""}})
		day := delta.Days[event.DayOf(now)]
		got := [3]uint64{day.Rollups[meter.MeterRollup(meters[4].Key(), meter.ByUser)]["u"], day.Rollups[meter.MeterRollup(meters[5].Key(), meter.ByUser)]["u"], stats.BadValues}
		if want := [3]uint64{tt.bytes, tt.size, tt.bad}; got != want {
			t.Errorf("%v: bytes, size and bad values are %v, want %v", tt.metadata, got, want)
		}
	}
}

func TestLifetimeTotalsPassTheLimitOfCells(t *testing.T) {
	t.Parallel()
	var list []sent
	for range 10_000 {
		list = append(list, sent{"u", "sql_execution", map[string]string{"rows": "1000000000000"}, now, ""})
	}
	delta, _ := fold(t, meter.Builtin(), 0, list)
	if n := delta.Totals[meter.Series{Family: meter.FamilyRows}]; n != 10_000*meter.MaxValue {
		t.Errorf("the rows are %d, want %d", n, uint64(10_000*meter.MaxValue))
	}
}
