package event_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/event"
)

var now = time.Date(2026, 3, 10, 12, 0, 0, 123e6, time.UTC)

func origin() event.Origin {
	return event.Origin{Token: "loader", User: "loader", AcceptedAt: now, Oldest: event.DayOf(now) - 29}
}

// events decodes what a batch holds.
func events(t testing.TB, b *event.Batch) []event.Event {
	t.Helper()
	var list []event.Event
	for rest := b.Entries; len(rest) > 0; {
		n, w := binary.Uvarint(rest)
		var v event.View
		if err := event.Parse(rest[w:w+int(n)], &v); err != nil {
			t.Fatalf("parse event %d: %v", len(list), err)
		}
		list = append(list, v.Event("producer", uint64(len(list)+1)))
		rest = rest[w+int(n):]
	}
	if len(list) != b.N {
		t.Fatalf("batch says %d events and holds %d", b.N, len(list))
	}
	return list
}

func TestDecodeReadsEveryField(t *testing.T) {
	body := `{"id":"a-1","user_id":"zoë","event_type":"sql_generation","source":"notebook",
		"metadata":{"question":"how \"many\"?\n","rows":"3"},"created_at":"2026-03-09T23:59:59.5+01:00"}`
	b, err := event.NewDecoder().Decode([]byte(body), event.JSON, origin())
	if err != nil {
		t.Fatal(err)
	}
	want := []event.Event{{
		ID: "a-1", ClientID: true, UserID: "zoë", Type: "sql_generation", Source: "notebook", Token: "loader",
		Metadata:   map[string]string{"question": "how \"many\"?\n", "rows": "3"},
		CreatedAt:  time.Date(2026, 3, 9, 22, 59, 59, 5e8, time.UTC),
		AcceptedAt: now,
	}}
	if diff := cmp.Diff(want, events(t, b)); diff != "" {
		t.Error(diff)
	}
	if !b.Single || b.N != 1 || len(b.Types) != 1 || b.Types[0] != (event.TypeCount{Type: "sql_generation", N: 1}) {
		t.Errorf("batch = %+v", b)
	}
}

func TestDecodeReadsTheTimesOfRFC3339(t *testing.T) {
	lastMoment := time.Date(2026, 3, 9, 23, 59, 59, 999999999, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-03-09t23:59:59z":            time.Date(2026, 3, 9, 23, 59, 59, 0, time.UTC),
		"2026-03-09t22:59:59.5-01:00":     time.Date(2026, 3, 9, 23, 59, 59, 5e8, time.UTC),
		"2026-03-09T23:59:60Z":            lastMoment,
		"2026-03-09t15:59:60.25-08:00":    lastMoment,
		"2026-03-10T05:29:60+05:30":       lastMoment,
		"2026-03-09T23:59:59.9999999999Z": lastMoment,
	} {
		b, err := event.NewDecoder().Decode([]byte(`{"event_type":"x","created_at":"`+text+`"}`), event.JSON, origin())
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := events(t, b)[0].CreatedAt; !got.Equal(want) {
			t.Errorf("%s is read as %s, want %s", text, got, want)
		}
	}
}

// The scope of an id is told by who posts it, and entries of older versions, which say nothing of it, are still read.
func TestEntriesSayWhoseIDsTheyHave(t *testing.T) {
	for _, bound := range []bool{false, true} {
		from := origin()
		from.Bound = bound
		b, err := event.NewDecoder().Decode([]byte(`{"id":"1","event_type":"x"}`), event.JSON, from)
		if err != nil {
			t.Fatal(err)
		}
		entry := b.Entries[1:]
		var v event.View
		if err := event.Parse(entry, &v); err != nil || !v.TypedID || v.Bound != bound {
			t.Errorf("posted by role user %t: the entry says %t, its id is of a type %t, %v", bound, v.Bound, v.TypedID, err)
		}
		entry[0] &^= 8 | 16
		if err := event.Parse(entry, &v); err != nil || v.TypedID || v.Bound || string(v.ID) != "1" {
			t.Errorf("an entry of an older version: %+v, %v", v, err)
		}
	}
}

func TestDecodeFillsWhatIsAbsent(t *testing.T) {
	d := event.NewDecoder()
	b, err := d.Decode([]byte("{\"event_type\":\"x\"}\n\n {\"event_type\":\"y\",\"metadata\":{}}\r\n"), event.NDJSON, origin())
	if err != nil {
		t.Fatal(err)
	}
	got := events(t, b)
	for i, typ := range []string{"x", "y"} {
		want := event.Event{
			ID: event.ServerID("producer", uint64(i+1), now), UserID: "loader", Type: typ, Token: "loader",
			Metadata: map[string]string{}, CreatedAt: now, AcceptedAt: now,
		}
		if diff := cmp.Diff(want, got[i]); diff != "" {
			t.Error(diff)
		}
	}
	if b.Single {
		t.Error("NDJSON is a batch, also with one line")
	}
}

func TestServerIDIsAUUIDv7(t *testing.T) {
	id := event.ServerID("p", 7, now)
	if len(id) != 36 || id[14] != '7' || !strings.ContainsRune("89ab", rune(id[19])) {
		t.Errorf("id %q is not a UUIDv7", id)
	}
	if id != event.ServerID("p", 7, now) || id == event.ServerID("p", 8, now) || id == event.ServerID("q", 7, now) {
		t.Error("the id must follow from producer and sequence number alone")
	}
}

// repeated builds a batch of n copies.
func repeated(n int, s string) string {
	return "[" + strings.TrimSuffix(strings.Repeat(s+",", n), ",") + "]"
}

func TestDecodeNamesEveryFault(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	pairs := func(n int) string {
		var s []string
		for i := range n {
			s = append(s, fmt.Sprintf(`"k%d":"v"`, i))
		}
		return "{" + strings.Join(s, ",") + "}"
	}
	bound := origin()
	bound.Bound, bound.User = true, "ann"
	for name, c := range map[string]struct {
		body   string
		format event.Format
		origin event.Origin
		kind   event.FaultKind
		faults string // pointer code; …
	}{
		"an empty body":               {body: "", kind: event.Malformed, faults: " malformed_json"},
		"a cut body":                  {body: `{"event_type":"x"`, kind: event.Malformed, faults: " malformed_json"},
		"data behind the value":       {body: `{"event_type":"x"} 1`, kind: event.Malformed, faults: " malformed_json"},
		"data behind an array":        {body: `[{"event_type":"x"}]]`, kind: event.Malformed, faults: " malformed_json"},
		"two values on a line":        {body: "{\"event_type\":\"x\"}\n{\"event_type\":\"x\"}{}", format: event.NDJSON, kind: event.Malformed, faults: "/1 malformed_json"},
		"a repeated key":              {body: `[{"event_type":"x","event_type":"y"}]`, kind: event.Malformed, faults: "/0/event_type duplicate_key"},
		"a repeated metadata key":     {body: `{"event_type":"x","metadata":{"a":"1","a":"2"}}`, kind: event.Malformed, faults: "/metadata/a duplicate_key"},
		"invalid UTF-8":               {body: "{\"event_type\":\"\xff\"}", kind: event.Malformed, faults: "/event_type malformed_json"},
		"a raw control character":     {body: "{\"event_type\":\"x\",\"source\":\"a\tb\"}", kind: event.Malformed, faults: "/source malformed_json"},
		"a lone surrogate":            {body: `{"event_type":"x","source":"\ud800"}`, kind: event.Malformed, faults: "/source malformed_json"},
		"a number with leading zero":  {body: `{"event_type":"x","metadata":{"rows":01}}`, kind: event.Malformed, faults: "/metadata/rows wrong_type;/metadata malformed_json"},
		"a bare string":               {body: `"x"`, faults: " wrong_type"},
		"a string among events":       {body: `[{"event_type":"x"},"x",{}]`, faults: "/1 wrong_type;/2/event_type required"},
		"an unknown key":              {body: `{"event_type":"x","user":"a"}`, faults: "/user unknown_field"},
		"a key in the wrong case":     {body: `{"Event_Type":"x","event_type":"x"}`, faults: "/Event_Type unknown_field"},
		"no type":                     {body: `{}`, faults: "/event_type required"},
		"an empty type":               {body: `{"event_type":""}`, faults: "/event_type empty"},
		"a reserved type":             {body: `{"event_type":"__other__"}`, faults: "/event_type bad_event_type"},
		"a type with a newline":       {body: `{"event_type":"a\nb"}`, faults: "/event_type bad_event_type"},
		"a type that is too long":     {body: `{"event_type":"` + long(129) + `"}`, faults: "/event_type too_long"},
		"an id that is too long":      {body: `{"event_type":"x","id":"` + long(129) + `"}`, faults: "/id too_long"},
		"an empty id":                 {body: `{"event_type":"x","id":""}`, faults: "/id empty"},
		"a user that is too long":     {body: `{"event_type":"x","user_id":"` + long(257) + `"}`, faults: "/user_id too_long"},
		"an empty user":               {body: `{"event_type":"x","user_id":""}`, faults: "/user_id empty"},
		"a source that is too long":   {body: `{"event_type":"x","source":"` + long(129) + `"}`, faults: "/source too_long"},
		"a null":                      {body: `{"event_type":null}`, faults: "/event_type wrong_type"},
		"metadata that is a list":     {body: `{"event_type":"x","metadata":[]}`, faults: "/metadata wrong_type"},
		"metadata that is no string":  {body: `[{"event_type":"x","metadata":{"a":"1","rows":3,"c":null,"d":{"e":[1]}}}]`, faults: "/0/metadata/rows wrong_type;/0/metadata/c wrong_type;/0/metadata/d wrong_type"},
		"a pointer that needs escape": {body: `{"event_type":"x","metadata":{"a/b~c":3}}`, faults: "/metadata/a~1b~0c wrong_type"},
		"too many keys":               {body: `{"event_type":"x","metadata":` + pairs(65) + `}`, faults: "/metadata too_many"},
		"a key that is too long":      {body: `{"event_type":"x","metadata":{"` + long(129) + `":"1"}}`, faults: "/metadata/" + long(129) + " too_long"},
		"a value that is too long":    {body: `{"event_type":"x","metadata":{"a":"` + long(8193) + `"}}`, faults: "/metadata/a too_long"},
		"too much metadata": {body: `{"event_type":"x","metadata":{"a":"` + long(8192) + `","b":"` + long(8192) + `","c":"` + long(8192) + `","d":"` + long(8192) + `"}}`,
			faults: "/metadata too_long"},
		"second 60 by day":           {body: `{"event_type":"x","created_at":"2026-03-09T12:59:60Z"}`, faults: "/created_at bad_time"},
		"second 61":                  {body: `{"event_type":"x","created_at":"2026-03-09T23:59:61Z"}`, faults: "/created_at bad_time"},
		"a time without a zone":      {body: `{"event_type":"x","created_at":"2026-03-10T12:00:00"}`, faults: "/created_at bad_time"},
		"an hour of one digit":       {body: `{"event_type":"x","created_at":"2026-03-10T9:00:00Z"}`, faults: "/created_at bad_time"},
		"a comma for the fraction":   {body: `{"event_type":"x","created_at":"2026-03-10T09:00:00,5Z"}`, faults: "/created_at bad_time"},
		"a zone of 24 hours":         {body: `{"event_type":"x","created_at":"2026-03-10T09:00:00+24:00"}`, faults: "/created_at bad_time"},
		"a zone of 60 minutes":       {body: `{"event_type":"x","created_at":"2026-03-10T09:00:00-00:60"}`, faults: "/created_at bad_time"},
		"a time that is a number":    {body: `{"event_type":"x","created_at":1}`, faults: "/created_at wrong_type"},
		"a time too far ahead":       {body: `{"event_type":"x","created_at":"2026-03-10T12:10:01Z"}`, faults: "/created_at too_far_ahead"},
		"a time before the window":   {body: `{"event_type":"x","created_at":"2026-02-08T23:59:59Z"}`, faults: "/created_at expired"},
		"a user who sets the time":   {body: `{"event_type":"x","created_at":"2026-03-10T12:00:00Z"}`, origin: bound, faults: "/created_at not_allowed"},
		"a user who names another":   {body: `[{"event_type":"x","user_id":"ann"},{"event_type":"x","user_id":"bob"}]`, origin: bound, kind: event.Forbidden, faults: "/1/user_id not_allowed"},
		"faults on several lines":    {body: "{}\n{\"event_type\":\n{\"a\":1}\n{\"event_type\":\"x\"}", format: event.NDJSON, kind: event.Malformed, faults: "/0/event_type required;/1/event_type malformed_json;/2/a unknown_field;/2/event_type required"},
		"more than a batch may hold": {body: repeated(10_001, `{"event_type":"x"}`), kind: event.TooMany, faults: " too_many"},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.origin
			if o.Token == "" {
				o = origin()
			}
			_, err := event.NewDecoder().Decode([]byte(c.body), c.format, o)
			var faults *event.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("Decode(%.80s) = %v, want faults", c.body, err)
			}
			var got []string
			for _, f := range faults.List {
				got = append(got, f.Pointer+" "+f.Code)
				if f.Detail == "" {
					t.Errorf("fault %v has no detail", f)
				}
			}
			if s := strings.Join(got, ";"); s != c.faults || faults.Kind != c.kind {
				t.Errorf("Decode(%.80s)\n got kind %d, %s\nwant kind %d, %s", c.body, faults.Kind, s, c.kind, c.faults)
			}
		})
	}
}

func TestDecodeListsTheFirstFaults(t *testing.T) {
	_, err := event.NewDecoder().Decode([]byte(repeated(250, `{}`)), event.JSON, origin())
	var faults *event.Faults
	if !errors.As(err, &faults) || len(faults.List) != event.MaxFaults || faults.Total != 250 {
		t.Fatalf("got %v", err)
	}
}

func TestDecoderIsReusable(t *testing.T) {
	d := event.NewDecoder()
	if _, err := d.Decode([]byte(`[{"event_type":"a"},{"event_type":"a"},{}]`), event.JSON, origin()); err == nil {
		t.Fatal("no error")
	}
	for i := range 3000 { // past the limit of remembered types
		typ := fmt.Sprintf("t%d", i)
		b, err := d.Decode([]byte(`{"event_type":"`+typ+`"}`), event.JSON, origin())
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Types) != 1 || b.Types[0] != (event.TypeCount{Type: typ, N: 1}) || events(t, b)[0].Type != typ {
			t.Fatalf("batch %d = %+v", i, b)
		}
	}
}

// plain is an event as json/v2 sees it, which is as strict as we promise to be.
type plain struct {
	ID        *string           `json:"id"`
	UserID    *string           `json:"user_id"`
	Type      *string           `json:"event_type"`
	Metadata  map[string]string `json:"metadata"`
	Source    *string           `json:"source"`
	CreatedAt *string           `json:"created_at"`
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"id":"1","user_id":"u","event_type":"x","metadata":{"a":"b\u00e9"},"source":"s","created_at":"2026-03-10T00:00:00Z"}`), false)
	f.Add([]byte(`[{"event_type":"x"},{"event_type":"y","metadata":{"":""}}]`), false)
	f.Add([]byte("{\"event_type\":\"x\"}\n\n{\"event_type\":\"y\"}"), true)
	f.Fuzz(func(t *testing.T, body []byte, lines bool) {
		format := event.JSON
		if lines {
			format = event.NDJSON
		}
		b, err := event.NewDecoder().Decode(body, format, origin())
		if err != nil {
			var faults *event.Faults
			if !errors.As(err, &faults) || faults.Total == 0 || len(faults.List) == 0 {
				t.Fatalf("error %v names no fault", err)
			}
			for _, f := range faults.List {
				if !utf8.ValidString(f.Pointer) || f.Code == "" || f.Detail == "" {
					t.Fatalf("bad fault %+v", f)
				}
			}
			return
		}
		compare(t, body, lines, b, events(t, b))
	})
}

// compare checks an accepted body against json/v2.
func compare(t *testing.T, body []byte, lines bool, b *event.Batch, got []event.Event) {
	var want []plain
	switch {
	case lines:
		for line := range bytes.Lines(body) {
			if len(bytes.TrimSpace(line)) == 0 {
				continue
			}
			want = append(want, unmarshal[plain](t, line))
		}
	case b.Single:
		want = []plain{unmarshal[plain](t, body)}
	default:
		want = unmarshal[[]plain](t, body)
	}
	if len(want) != len(got) {
		t.Fatalf("accepted %d events, json/v2 reads %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if w.Type == nil || *w.Type != g.Type || w.UserID != nil && *w.UserID != g.UserID ||
			w.ID != nil && *w.ID != g.ID || w.Source != nil && *w.Source != g.Source || len(w.Metadata) != len(g.Metadata) {
			t.Fatalf("event %d: accepted %+v, json/v2 reads %+v", i, g, w)
		}
		for k, v := range w.Metadata {
			if g.Metadata[k] != v {
				t.Fatalf("event %d: metadata %q is %q, json/v2 reads %q", i, k, g.Metadata[k], v)
			}
		}
	}
}

func unmarshal[T any](t *testing.T, data []byte) T {
	var v T
	if err := jsonv2.Unmarshal(data, &v, jsonv2.RejectUnknownMembers(true)); err != nil {
		t.Fatalf("accepted what json/v2 refuses: %v", err)
	}
	return v
}

func FuzzParse(f *testing.F) {
	b, err := event.NewDecoder().Decode([]byte(`{"id":"1","event_type":"x","source":"s","metadata":{"a":"b"}}`), event.JSON, origin())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Entries[1:])
	f.Fuzz(func(t *testing.T, entry []byte) {
		var v event.View
		if event.Parse(entry, &v) != nil {
			return
		}
		n := 0
		for range v.Metadata() {
			n++
		}
		if n != v.Pairs() {
			t.Fatalf("metadata has %d pairs, Pairs says %d", n, v.Pairs())
		}
		_ = v.Event("p", 1)
	})
}

func body(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"user_id":"user-%05d","event_type":"sql_generation","metadata":{"question":"how many orders did we ship last week in region %d","policy_filters":"pii,region","outcome":"success"},"source":"notebook"}`+"\n", i*7919%10_000, i)
	}
	return b.Bytes()
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 1000} {
		lines := body(n)
		for name, data := range map[event.Format][]byte{
			event.NDJSON: lines,
			event.JSON:   []byte("[" + strings.ReplaceAll(strings.TrimSpace(string(lines)), "\n", ",") + "]"),
		} {
			b.Run(fmt.Sprintf("events=%d/format=%d", n, name), func(b *testing.B) {
				b.ReportAllocs()
				d := event.NewDecoder()
				for b.Loop() {
					if _, err := d.Decode(data, name, origin()); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/event")
			})
		}
	}
}
