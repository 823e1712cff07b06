package event_test

import (
	"encoding/json"
	"testing"

	"usaged/aggregator/event"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain, größer, 日本": "plain, größer, 日本", "a\x1b[0m": `a\u001b[0m`, "\u009b\u202e\u200f": `\u009b\u202e\u200f`, "\U000e0041": `\udb40\udc41`,
	} {
		if got := event.Visible(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

// FuzzVisibleJSON holds that a reader of JSON reads the same, and that nothing hidden is left.
func FuzzVisibleJSON(f *testing.F) {
	f.Add("a\x1b[0m\u009b\u202e\U000e0041\x7f日本")
	f.Fuzz(func(t *testing.T, text string) {
		data, err := json.Marshal(map[string]string{text: text})
		if err != nil {
			t.Skip()
		}
		var before, after map[string]string
		visible := event.VisibleJSON(data)
		if json.Unmarshal(data, &before) != nil || json.Unmarshal(visible, &after) != nil || len(after) != 1 {
			t.Fatalf("%q became %q", data, visible)
		}
		for key, value := range before {
			if after[key] != value {
				t.Errorf("%q became %q", data, visible)
			}
		}
		for _, r := range string(visible) {
			if event.Hidden(r) {
				t.Errorf("%q has %q", visible, r)
			}
		}
	})
}
