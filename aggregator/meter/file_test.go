package meter_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/meter"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Each file of testdata/faults is refused with the lines that stand in the .golden file beside it.
func TestAWrongFileIsRefusedWithEveryFault(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			meters, err := meter.Load(path)
			if err == nil {
				t.Fatalf("Load = %v, want an error", meters)
			}
			got := strings.ReplaceAll(err.Error(), filepath.Dir(path)+"/", "") + "\n"
			golden := strings.TrimSuffix(path, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAFileOfMetersIsReadBesideTheBuiltins(t *testing.T) {
	meters, err := meter.Parse("meters.yml", []byte(`meters:
  - name: project-tokens
    description: LLM tokens by project.
    reference: project_id
    value: total_tokens
    sum: [prompt_tokens, completion_tokens]
    by: reference
`))
	if err != nil {
		t.Fatal(err)
	}
	want := append(meter.Builtin(), meter.Meter{
		Name: "project-tokens", Description: "LLM tokens by project.", Reference: "project_id", Value: "total_tokens",
		Sum: []string{"prompt_tokens", "completion_tokens"}, By: "reference",
	})
	if diff := cmp.Diff(want, meters); diff != "" {
		t.Error(diff)
	}
	for _, empty := range []string{"meters: []\n", "meters:\n"} {
		if meters, err := meter.Parse("m.yml", []byte(empty)); err != nil || len(meters) != len(meter.Builtin()) {
			t.Errorf("Parse(%q) = %d meters, %v", empty, len(meters), err)
		}
	}
}

func TestMaxTokensLimitsTheBuiltinMeter(t *testing.T) {
	meters, err := meter.Parse("m.yml", []byte("max_tokens: 77\nmeters: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	delta, stats := fold(t, meters, 0, []sent{
		{"u", "chat", map[string]string{"total_tokens": "77"}, now, ""}, {"u", "chat", map[string]string{"total_tokens": "78"}, now, ""},
	})
	if n := delta.Totals[meter.Series{Family: meter.FamilyTokens, A: "unknown", B: "other"}]; n != 77 || stats.BadValues != 1 {
		t.Errorf("%d tokens and %d bad values, want 77 and 1", n, stats.BadValues)
	}
}

func TestTooManyMetersAreRefused(t *testing.T) {
	file := "meters:\n"
	for i := range meter.MaxMeters {
		file += fmt.Sprintf("- name: m%d\n", i)
	}
	if _, err := meter.Parse("m.yml", []byte(file)); err != nil {
		t.Errorf("%d meters: %v", meter.MaxMeters, err)
	}
	const want = "m.yml:102: there are 101 meters: at most 100 can be counted"
	if _, err := meter.Parse("m.yml", []byte(file+"- name: last\n")); err == nil || err.Error() != want {
		t.Errorf("%d meters: %v, want %s", meter.MaxMeters+1, err, want)
	}
}

// A meter that counts something else has another key; one that is only called, described or answered otherwise has not.
func TestTheKeySaysWhatIsCounted(t *testing.T) {
	base := meter.Meter{Name: "m", Events: []string{"a", "b"}, Reference: "r", Value: "v", Sum: []string{"x", "y"}}
	edit := func(f func(*meter.Meter)) string {
		m := base
		f(&m)
		return m.Key()
	}
	if !strings.HasPrefix(base.Key(), "m@") {
		t.Errorf("Key = %q, want m@…", base.Key())
	}
	for name, key := range map[string]string{
		"described": edit(func(m *meter.Meter) { m.Description = "d" }),
		"answered":  edit(func(m *meter.Meter) { m.By = "reference" }),
		"reordered": edit(func(m *meter.Meter) { m.Events, m.Sum = []string{"b", "a"}, []string{"y", "x"} }),
	} {
		if key != base.Key() {
			t.Errorf("%s otherwise: Key = %q, want %q", name, key, base.Key())
		}
	}
	seen := map[string]string{base.Key(): "base"}
	for name, key := range map[string]string{
		"name":      edit(func(m *meter.Meter) { m.Name = "n" }),
		"events":    edit(func(m *meter.Meter) { m.Events = []string{"a"} }),
		"all":       edit(func(m *meter.Meter) { m.Events = nil }),
		"reference": edit(func(m *meter.Meter) { m.Reference = "" }),
		"value":     edit(func(m *meter.Meter) { m.Value = "x" }),
		"max":       edit(func(m *meter.Meter) { m.Max = 5 }),
		"sum":       edit(func(m *meter.Meter) { m.Sum = []string{"xy"} }),
	} {
		if seen[key] != "" {
			t.Errorf("another %s has the key of %s", name, seen[key])
		}
		seen[key] = name
	}
	for _, m := range meter.Builtin() {
		if m.Key() != m.Name {
			t.Errorf("the built-in %s has the key %q", m.Name, m.Key())
		}
	}
}
