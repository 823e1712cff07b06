package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestMapping(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, jq, record string
		want             string // the events as JSON, or "!" and a part of the reason
	}{
		{"it takes fields by name", "", `{"event_type":"a","user_id":"u","created_at":"2026-01-02T03:04:05+01:00","metadata":{"k":"v"}}`,
			`{"id":"digest-1","user_id":"u","event_type":"a","metadata":{"k":"v"},"created_at":"2026-01-02T03:04:05+01:00"}`},
		{"it makes metadata of other fields", "", `{"event_type":"a","n":1.50,"t":true,"x":null,"y":"","metadata.z":"z"}`,
			`{"id":"digest-1","event_type":"a","metadata":{"n":"1.50","t":"true","z":"z"}}`},
		{"it reads metadata from a string", "", `{"event_type":"a","metadata":"{\"k\":2}"}`, `{"id":"digest-1","event_type":"a","metadata":{"k":"2"}}`},
		{"it refuses metadata twice", "", `{"event_type":"a","metadata":{"k":"1"},"k":"2"}`, "!both"},
		{"it refuses metadata that is no object", "", `{"event_type":"a","metadata":7}`, "!metadata is a number"},
		{"it refuses what is no object", "", `[1]`, "!the record is an array"},
		{"it wants a type", "", `{"user_id":"u"}`, "!--type"},
		{"it maps with jq", `{event_type: .t, metadata: {n, big, none, half: (.n/2)}}`, `{"t":"a","n":3,"big":123456789012345678901}`,
			`{"id":"digest-1","event_type":"a","metadata":{"big":"123456789012345678901","half":"1.5","n":"3"}}`},
		{"it knows the variables", `{event_type: "a", id: "\($file)/\($n)/\($line)/\($digest)"}`, `{}`, `{"id":"f.json/3/4/digest","event_type":"a"}`},
		{"it leaves out null", `null`, `{}`, ``},
		{"it leaves out nothing", `empty`, `{}`, ``},
		{"it leaves out what select does", `select(.t) | {event_type: .t}`, `{}`, ``},
		{"it stops at halt", `{event_type:"a"}, halt`, `{}`, `{"id":"digest-1","event_type":"a"}`},
		{"it makes several events", `.[] | {event_type: .}`, `["a","b"]`,
			`{"id":"digest-1","event_type":"a"} {"id":"digest-1.2","event_type":"b"}`},
		{"it refuses an unknown field", `{event_type: "a", usr: "b"}`, `{}`, `!unknown field "usr"`},
		{"it refuses what is no event", `"a"`, `{}`, "!--jq gives a string"},
		{"it reports an error of the expression", `.a.b`, `{"a":1}`, "!--jq: "},
		{"it refuses an array in metadata", `{event_type:"a",metadata:{l:[1]}}`, `{}`, "!metadata/l is an array"},
		{"it refuses a user who is an object", `{event_type:"a",user_id:{}}`, `{}`, "!user_id is an object"},
		{"it reads Unix seconds", `{event_type:"a",created_at:.t}`, `{"t":1723560031}`,
			`{"id":"digest-1","event_type":"a","created_at":"2024-08-13T14:40:31Z"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := mapping{ids: idsAuto, now: time.Now, values: newValueDecoder(), extra: map[string]bool{}}
			if tc.jq != "" {
				code, err := compileJQ(tc.jq)
				if err != nil {
					t.Fatal(err)
				}
				m.code = code
			}
			value, err := m.values.decode([]byte(tc.record))
			if err != nil {
				t.Fatal(err)
			}
			events, err := m.events(t.Context(), &source{name: "dir/f.json", digest: "digest"}, record{n: 3, line: 4, value: value})
			if reason, bad := strings.CutPrefix(tc.want, "!"); bad {
				if _, ok := errors.AsType[*rejection](err); !ok || !strings.Contains(err.Error(), reason) {
					t.Errorf("%v, want a rejection with %q", err, reason)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range events {
				if len(e.Metadata) == 0 {
					e.Metadata = nil
				}
				if _, after, made := strings.Cut(e.ID, "-"); made && !strings.Contains(e.ID, "/") {
					e.ID = "digest-" + after
				}
				data, err := json.Marshal(e)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(data))
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, " "), tc.want)
			}
		})
	}
}

func TestCompileJQShowsThePlace(t *testing.T) {
	t.Parallel()
	for expression, want := range map[string]string{
		"{a: }":          "line 1, column 5",
		"{\n  a: 1 1\n}": "line 2, column 8",
		".a |":           "line 1, column 5",
		"\"ü\" x":        "line 1, column 5",
	} {
		_, err := compileJQ(expression)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", expression, err, want)
		}
	}
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	for input, want := range map[string]string{
		`"2026-11-23T10:00:00.123456789+02:00"`: "2026-11-23T10:00:00.123456789+02:00",
		`"2026-11-23 10:00:00"`:                 "2026-11-23T10:00:00Z",
		`"2026-11-23 10:00:00.5"`:               "2026-11-23T10:00:00.5Z",
		`"2026-11-23T10:00:00"`:                 "2026-11-23T10:00:00Z",
		`"2026-11-23"`:                          "2026-11-23T00:00:00Z",
		`"1470559174.437"`:                      "2016-08-07T08:39:34.437Z",
		`1470559174.437`:                        "2016-08-07T08:39:34.437Z",
		`1.470559174e9`:                         "2016-08-07T08:39:34Z",
		`0`:                                     "!",
		`null`:                                  "",
		`""`:                                    "",
		`"2026-11-22t10:00:00z"`:                "2026-11-22T10:00:00Z",
		`"2026-11-22T23:59:60Z"`:                "2026-11-22T23:59:59.999999999Z",
		`"20261031"`:                            "2026-10-31T00:00:00Z",
		`20261031`:                              "2026-10-31T00:00:00Z",
		`"20261031.0"`:                          "2026-10-31T00:00:00Z",
		`"202610311205"`:                        "2026-10-31T12:05:00Z",
		`"20261031120506"`:                      "2026-10-31T12:05:06Z",
		`"20261331"`:                            "!",
		`"2026"`:                                "!",
		`2026.0`:                                "!",
		`"202610"`:                              "!",
		`"46326"`:                               "2026-10-31T00:00:00Z",
		`46326.75`:                              "2026-10-31T18:00:00Z",
		`"46350.5"`:                             "!",
		`"12345"`:                               "!",
		`"2026103112"`:                          "!",
		`"-5"`:                                  "!",
		`"yesterday"`:                           "!",
		`"23/11/2026"`:                          "!",
		`1470559174437`:                         "!",
		`true`:                                  "!",
		`1e99`:                                  "!",
	} {
		value, err := newValueDecoder().decode([]byte(input))
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseTime(value, time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC))
		text := ""
		switch {
		case err != nil:
			text = "!"
		case !got.IsZero():
			text = got.Format(time.RFC3339Nano)
		}
		if text != want {
			t.Errorf("%s: %q (%v), want %q", input, text, err, want)
		}
	}
}

func TestShiftDays(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for last, want := range map[time.Time]int{
		now:                            0,
		now.Add(-time.Second):          0,
		now.Add(time.Second):           -1,
		now.AddDate(0, 0, -1):          1,
		now.Add(-23 * time.Hour):       0,
		now.AddDate(0, 0, 3):           -3,
		now.AddDate(0, 0, 3).Add(1):    -4,
		now.AddDate(-10, 0, 0).Add(+1): 3651,
		now.AddDate(-10, 0, 0).Add(-1): 3652,
	} {
		if got := shiftDays(last, now); got != want {
			t.Errorf("%v: %d, want %d", last, got, want)
		}
		if moved := last.AddDate(0, 0, want); moved.After(now) || !moved.AddDate(0, 0, 1).After(now) {
			t.Errorf("%v moves to %v", last, moved)
		}
	}
}
