package meter_test

import (
	"encoding/json"
	"slices"
	"testing"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// TestFreedValuesTakeNoRoom frees a value, which keeps its name, and reads the labels back.
func TestFreedValuesTakeNoRoom(t *testing.T) {
	t.Parallel()
	limits := meter.Limits{Sources: 1}
	labels := meter.NewLabels(limits)
	labels.Admit(meter.LabelSource, []byte("squatter"))
	if got := labels.Admit(meter.LabelSource, []byte("portal")); got != event.Other {
		t.Errorf("beyond the limit: %s", got)
	}
	if got := labels.Free("squatter"); !slices.Equal(got, []string{meter.LabelSource}) {
		t.Errorf("freed in %v", got)
	}
	if got := labels.Free("squatter"); len(got) != 0 {
		t.Errorf("freed again in %v", got)
	}
	data, err := json.Marshal(labels)
	if err != nil {
		t.Fatal(err)
	}
	again := meter.NewLabels(limits)
	if err := json.Unmarshal(data, again); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ value, name string }{{"squatter", "squatter"}, {"portal", "portal"}, {"more", event.Other}} {
		if got := again.Admit(meter.LabelSource, []byte(want.value)); got != want.name {
			t.Errorf("%s is counted as %s, want %s", want.value, got, want.name)
		}
	}
}
