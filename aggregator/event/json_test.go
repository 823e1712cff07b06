package event_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/event"
)

// TestAppendJSON reads what AppendJSON writes with another decoder, and compares it with the event.
func TestAppendJSON(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"nothing but a type":   `{"event_type":"a"}`,
		"everything":           `{"id":"x\u0001","user_id":"ä \"q\" \\","event_type":"t","metadata":{"k\n":"\u2028","b":"","ü":"\u007f"},"source":"s","created_at":"2026-11-20T23:59:59.120Z"}`,
		"nanoseconds":          `{"event_type":"a","created_at":"2026-11-20T00:00:00.000000001Z"}`,
		"another zone":         `{"event_type":"a","created_at":"2026-11-20T01:00:00+02:00"}`,
		"a whole second":       `{"event_type":"a","created_at":"2026-11-21T09:08:07Z"}`,
		"metadata of one pair": `{"event_type":"a","metadata":{"rows":"42"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			batch, err := event.NewDecoder().Decode([]byte(body), event.JSON, event.Origin{
				Token: "t", User: "t", AcceptedAt: time.Date(2026, 11, 23, 12, 0, 0, 5e6, time.UTC), Oldest: 20_000,
			})
			if err != nil {
				t.Fatal(err)
			}
			var v event.View
			if err := event.Parse(batch.Entries[entryStart(batch.Entries):], &v); err != nil {
				t.Fatal(err)
			}
			want := v.Event("0193a1b2-0000-7000-8000-000000000001", 7)
			text := "{" + string(v.AppendJSON(nil, "0193a1b2-0000-7000-8000-000000000001", 7)) + "}"
			var got struct {
				ID        string            `json:"id"`
				UserID    string            `json:"user_id"`
				Type      string            `json:"event_type"`
				Metadata  map[string]string `json:"metadata"`
				Source    string            `json:"source"`
				CreatedAt time.Time         `json:"created_at"`
			}
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatalf("%v in %s", err, text)
			}
			if diff := cmp.Diff(want, event.Event{
				ID: got.ID, ClientID: want.ClientID, UserID: got.UserID, Type: got.Type, Metadata: got.Metadata, Source: got.Source,
				CreatedAt: got.CreatedAt, AcceptedAt: want.AcceptedAt, Token: want.Token,
			}); diff != "" {
				t.Errorf("event (-) and its JSON (+) differ:\n%s", diff)
			}
		})
	}
}

// entryStart is the length of the length in front of the first entry.
func entryStart(entries []byte) int {
	n := 1
	for entries[n-1] >= 0x80 {
		n++
	}
	return n
}

func TestAppendTime(t *testing.T) {
	t.Parallel()
	for _, nanos := range []int64{0, 1, -1, 999_999_999, 1_763_942_400_000_000_000, 1_763_942_399_500_000_000, 4_102_444_799_123_456_789} {
		want := time.Unix(0, nanos).UTC().Format(time.RFC3339Nano)
		if got := string(event.AppendTime(nil, nanos)); got != want {
			t.Errorf("AppendTime(%d) = %s, want %s", nanos, got, want)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	batch, err := event.NewDecoder().Decode([]byte(`{"user_id":"user-00123","event_type":"sql_execution","metadata":{"question":"revenue by region","rows":"42","outcome":"success"},"source":"portal"}`),
		event.JSON, event.Origin{Token: "t", User: "t", AcceptedAt: time.Date(2026, 11, 23, 12, 0, 0, 5e6, time.UTC), Oldest: 20_000})
	if err != nil {
		b.Fatal(err)
	}
	var v event.View
	if err := event.Parse(batch.Entries[entryStart(batch.Entries):], &v); err != nil {
		b.Fatal(err)
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = v.AppendJSON(buf[:0], "0193a1b2-0000-7000-8000-000000000001", 7)
	}
}
