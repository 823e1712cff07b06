package event_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"usaged/aggregator/event"
)

// bodies are what the two ways through a body have to agree on: plain events, and everything that is almost plain.
var bodies = []string{
	`{"event_type":"x"}`,
	` { "event_type" : "x" , "user_id" : "u" } ` + "\r\n",
	`{"id":"1","user_id":"u","event_type":"x","metadata":{"a":"b\u00e9","c":"\"\\\/\b\f\n\r\t"},"source":"s","created_at":"2026-03-10T00:00:00Z"}`,
	`{"event_type":"x","metadata":{"a":"\ud83d\ude00"}}`,
	`{"event_type":"x","metadata":{"a":"\ud83d"}}`,
	`{"event_type":"x","metadata":{"a":"\q"}}`,
	`{"event_type":"x","metadata":{"a":"\`,
	`{"event_type":"x","metadata":{"a":"b","a":"c"}}`,
	`{"event_type":"x","metadata":{"a":"b","\u0061":"c"}}`,
	`{"event_type":"x","metadata":{"\u0061":"b","a":"c"}}`,
	`{"event_type":"x","metadata":{"a":1}}`,
	`{"event_type":"x","metadata":{}}`,
	`{"event_type":"x","metadata":{,}}`,
	`{"event_type":"x","metadata":{"a":"b",}}`,
	`{"event_type":"x","metadata":{"a":"b"},"metadata":{"c":"d"}}`,
	`{"event_type":"x","metadata":null}`,
	`{"event_type":"x","metadata":{"a":"` + strings.Repeat("b", event.MaxMetadataValueBytes) + `"}}`,
	`{"event_type":"x","metadata":{"a":"` + strings.Repeat("b", event.MaxMetadataValueBytes+1) + `"}}`,
	`{"event_type":"x","metadata":{"` + strings.Repeat("b", event.MaxMetadataKeyBytes+1) + `":""}}`,
	`{"event_type":"x","metadata":{` + pairs(event.MaxMetadataKeys, 1) + `}}`,
	`{"event_type":"x","metadata":{` + pairs(event.MaxMetadataKeys+1, 1) + `}}`,
	`{"event_type":"x","metadata":{` + pairs(16, 2048) + `}}`,
	`{"event_type":"x","metadata":{` + pairs(15, 2500) + `}}`,
	`{"event_type":"x","event_type":"y"}`,
	`{"event_type":"x","source":"a","source":""}`,
	`{"event_type":"x","Source":"a"}`,
	`{"event_type":"x","id":""}`,
	`{"event_type":"x","user_id":""}`,
	`{"event_type":"x","user_id":"somebody else"}`,
	`{"event_type":""}`,
	`{"event_type":"__x"}`,
	`{"event_type":"a\tb"}`,
	"{\"event_type\":\"a\u0085b\"}",
	"{\"event_type\":\"a\tb\"}",
	"{\"event_type\":\"\xff\"}",
	"{\"event_type\":\"x\"}\x00",
	"\ufeff{\"event_type\":\"x\"}",
	`{"event_type":"x","created_at":"2026-03-10T24:00:00Z"}`,
	`{"event_type":"x","created_at":"2099-03-10T00:00:00Z"}`,
	`{"event_type":"x","created_at":"1999-03-10T00:00:00Z"}`,
	`{"event_type":"x","created_at":"2026-03-10T00:00:00\u005a"}`,
	`{}`, `{,}`, `[]`, `[ ]`, `[`, `[,]`, `[{}]`, `[{},]`, `[1]`, `[null]`, `null`, `"x"`, ``, ` `, `{`, `{"`, `{"event_type`, `{"event_type":`,
	`{"event_type":"x"`, `{"event_type":"x"}{"event_type":"y"}`, `{"event_type":"x"},{"event_type":"y"}`, `{"event_type":"x"}]`,
	`[{"event_type":"x"},{"event_type":"y","metadata":{"":""}}]`,
	`[{"event_type":"x"},{"event_type":"y","metadata":{"n":2}},{"event_type":"__z"},[],{"event_type":"v","metadata":{"\u0061":"b"}}]`,
	`[{"event_type":"x"} {"event_type":"y"}]`,
	`[{"event_type":"x"},{"event_type":"y"}] []`,
	`[{"event_type":"x","metadata":{"a":"b","a":"c"}},{"event_type":"y","rows":1}]`,
	`[{"event_type":"x"},{"event_type":"y","rows":1},{"event_type":"z"`,
	"{\"event_type\":\"x\"}\n\n{\"event_type\":\"y\"}\n{\"rows\":1}\n{\"event_type\":\"z\"} 1\n",
	"[" + strings.Repeat(`{"event_type":"x"},`, event.MaxBatchEvents-1) + `{"event_type":"x"}]`,
	"[" + strings.Repeat(`{"event_type":"x"},`, event.MaxBatchEvents) + `{"event_type":"x"}]`,
	strings.Repeat(`{"event_type":"x"}`+"\n", event.MaxBatchEvents+1),
}

// pairs returns n pairs of metadata with values of a size.
func pairs(n, bytes int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = `"key-` + strings.Repeat("k", i) + `":"` + strings.Repeat("v", bytes) + `"`
	}
	return strings.Join(list, ",")
}

func TestTheQuickWayAnswersTheSame(t *testing.T) {
	t.Parallel()
	for _, body := range bodies {
		bothWays(t, []byte(body))
	}
}

func FuzzPlain(f *testing.F) {
	for _, body := range bodies {
		if len(body) < 4<<10 {
			f.Add([]byte(body))
		}
	}
	f.Fuzz(bothWays)
}

// bothWays decodes a body by both ways, as JSON and as NDJSON, for posters who may do more and less.
func bothWays(t *testing.T, body []byte) {
	bound := origin()
	bound.Bound = true
	for _, o := range []event.Origin{origin(), bound} {
		for _, format := range []event.Format{event.JSON, event.NDJSON} {
			// The second body meets the types of the first one.
			quick, slow := event.NewDecoder(), event.NewDecoder()
			for range 2 {
				got, gotErr := quick.Decode(body, format, o)
				want, wantErr := slow.DecodeByTokens(body, format, o)
				if !reflect.DeepEqual(faultsOf(gotErr), faultsOf(wantErr)) || !reflect.DeepEqual(got, want) {
					t.Fatalf("body %.300q, format %d, bound %v:\ngot  %+v, %+v\nwant %+v, %+v", body, format, o.Bound, got, gotErr, want, wantErr)
				}
			}
		}
	}
}

func faultsOf(err error) event.Faults {
	var faults *event.Faults
	if errors.As(err, &faults) {
		return *faults
	}
	return event.Faults{}
}
