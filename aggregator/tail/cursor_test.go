package tail_test

import (
	"testing"

	"usaged/aggregator/tail"
)

// FuzzCursor holds that a text that is read as a cursor is the text of that cursor.
func FuzzCursor(f *testing.F) {
	for _, seed := range []string{"", "..", "AZOhsgAAcACAAAAAAAAAAQ.1.000000", "AZOhsgAAcACAAAAAAAAAAQ.18446744073709551615.ffffff", "AZOhsgAAcACAAAAAAAAAAR.0.0a1b2c",
		"AZOhsgAAcACAAAAAAAAAAQ.+1.000000", "AZOhsgAAcACAAAAAAAAAAQ.1.0A1B2C", "AZOhsgAAcACAAAAAAAA\nAQ.1.000000"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := tail.ParseCursor(text)
		if err != nil {
			return
		}
		if got := c.String(); got != text || len(got) > 50 {
			t.Errorf("%q is read as %q", text, got)
		}
	})
}
