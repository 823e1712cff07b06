package main

import (
	"bytes"
	"encoding/csv"
	stdjson "encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-json-experiment/json/jsontext"
)

// seen is what a reader made of a record: its line and value, or "!" and what its error says.
type seen struct {
	line int
	text string
}

func readAll(t testing.TB, recs records) (list []seen, end error) {
	t.Helper()
	for n := 1; ; n++ {
		rec, err := recs.next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		if rec.n != n {
			t.Fatalf("record %d has number %d", n, rec.n)
		}
		text := "!" + errorText(rec.err)
		if rec.err == nil {
			data, err := stdjson.Marshal(rec.value)
			if err != nil {
				t.Fatal(err)
			}
			text = string(data)
		}
		list = append(list, seen{rec.line, text})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// same compares what was read; of an error the wanted text must be a part.
func same(got, want []seen) bool {
	return slices.EqualFunc(got, want, func(g, w seen) bool {
		if part, bad := strings.CutPrefix(w.text, "!"); bad {
			return g.line == w.line && strings.HasPrefix(g.text, "!") && strings.Contains(g.text, part)
		}
		return g == w
	})
}

func TestJSONRecords(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, input string
		want        []seen
	}{
		{"it reads nothing", " \n", nil},
		{"it reads an array over several lines", "\n[\n{\"a\":\n1},\n\n{\"b\":2}\n]\n", []seen{{3, `{"a":1}`}, {6, `{"b":2}`}}},
		{"it reads an empty array", "[]", nil},
		{"it reads values of any kind", "{} 1 \"x\"\nnull", []seen{{1, `{}`}, {1, `1`}, {1, `"x"`}, {2, `null`}}},
		{"it keeps long numbers", `{"a":12345678901234567890,"b":1e400}`, []seen{{1, `{"a":12345678901234567890,"b":1e400}`}}},
		{"it refuses a repeated key", "{\"a\":1,\"a\":2}\n{\"b\":1}", []seen{{1, "!duplicate"}, {2, `{"b":1}`}}},
		{"it refuses what is not UTF-8", "{\"a\":\"\xff\"}\n{\"b\":1}", []seen{{1, "!UTF-8"}, {2, `{"b":1}`}}},
		{"it goes on at the next object", "{\"a\":1\n{\"b\":2}\n{\"c\":3}\n", []seen{{1, "!not JSON"}, {2, `{"b":2}`}, {3, `{"c":3}`}}},
		{"it goes on behind an open string", "{\"a\":\"x\n{\"b\":2}", []seen{{1, "!not JSON"}, {2, `{"b":2}`}}},
		{"it goes on behind rubbish", "{\"a\":1}\nrubbish\n\n{\"b\":2}\n", []seen{{1, `{"a":1}`}, {2, "!not JSON"}, {4, `{"b":2}`}}},
		{"it goes on time and again", "{\"a\":1\n{\"b\":2\n{\"c\":3\n{}", []seen{{1, "!"}, {2, "!"}, {3, "!"}, {4, "{}"}}},
		{"it reports an end in the middle", "{\"a\":1}\n{\"b\":", []seen{{1, `{"a":1}`}, {2, "!not JSON"}}},
		{"it goes on in an array", "[{\"a\":1},\n{\"b\" 2},\n{\"c\":3}]", []seen{{1, `{"a":1}`}, {2, "!not JSON"}, {3, `{"c":3}`}}},
		{"it goes on in an array on one line", `[{"a":NaN},{"b":[{"x":Infinity},"]}"]}, {"c":1},nope,2,"x",{"d":}]`,
			[]seen{{1, "!not JSON"}, {1, "!not JSON"}, {1, `{"c":1}`}, {1, "!not JSON"}, {1, "2"}, {1, `"x"`}, {1, "!not JSON"}}},
		{"it goes on in a printed array", "[\n  {\n    \"a\": NaN,\n    \"b\": [\n      {}\n    ]\n  },\n  {\n    \"c\": 1\n  }\n]\n",
			[]seen{{2, "!not JSON"}, {8, `{"c":1}`}}},
		{"it goes on behind an element without an end", "[\n  {\"a\": \"x},\n  {\"b\":1}\n]", []seen{{2, "!not JSON"}, {3, `{"b":1}`}}},
		{"it takes elements without a comma between them", "[{\"a\":1} {\"b\":2}]", []seen{{1, `{"a":1}`}, {1, "!not JSON"}}},
		{"it reads values on one line", `{"a":1}{"b":NaN}{"c":3}`, []seen{{1, `{"a":1}`}, {1, "!not JSON"}, {1, `{"c":3}`}}},
		{"it reads a text sequence", "\x1e{\"a\":1}\n\x1e{\"b\":NaN}\n\x1e{\"c\":3}\n", []seen{{1, `{"a":1}`}, {2, "!not JSON"}, {3, `{"c":3}`}}},
		{"it reports an array without an end", `[{"a":1}`, []seen{{1, `{"a":1}`}, {1, "!not JSON"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, r := range []io.Reader{strings.NewReader(tc.input), iotest.OneByteReader(strings.NewReader(tc.input))} {
				got, err := readAll(t, newJSONRecords(r))
				if err != nil || !same(got, tc.want) {
					t.Errorf("%q: %v, %v; want %v", tc.input, got, err, tc.want)
				}
			}
		})
	}
}

// Where an object has no end, those that follow may be parts of it, or records of their own.
func TestJSONRecordsSayWhatMayBeLeftOut(t *testing.T) {
	t.Parallel()
	got, err := readAll(t, newJSONRecords(strings.NewReader("{\"a\":1}\n{\"a\":{\"b\":1} {\"a\":3}\n{\"c\":2}\n")))
	if want := []seen{{1, `{"a":1}`}, {2, "!not JSON"}, {3, `{"c":2}`}}; !same(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if err == nil || !strings.HasPrefix(err.Error(), "line 2: ") {
		t.Errorf("the error is %v, want one of line 2", err)
	}
}

func TestJSONRecordsFarApart(t *testing.T) {
	t.Parallel()
	rubbish := strings.Repeat("rubbish and more of it\n", 20_000)
	got, err := readAll(t, newJSONRecords(strings.NewReader("{\"a\":1\n"+rubbish+"{\"b\":2}\n{\"c\":\n"+rubbish+"{\"d\":4}")))
	want := []seen{{1, "!"}, {20_002, `{"b":2}`}, {20_003, "!"}, {40_004, `{"d":4}`}}
	if err != nil || !same(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

func TestLineRecords(t *testing.T) {
	t.Parallel()
	const input = "{\"a\":1}\r\n\n  \n{\"b\":2} x\nnot\n\"\xff\"\n[1]"
	want := []seen{{1, `{"a":1}`}, {4, "!more behind"}, {5, "!not JSON"}, {6, "!UTF-8"}, {7, "[1]"}}
	got, err := readAll(t, newLineRecords(strings.NewReader(input)))
	if err != nil || !same(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

func TestLineRecordsTooLong(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	recs := newLineRecords(io.MultiReader(strings.NewReader("{}\n"), io.LimitReader(endless('x'), limit+10), strings.NewReader("\n{}")))
	recs.limit = limit
	got, err := readAll(t, recs)
	if want := []seen{{1, "{}"}, {2, "!longer"}, {3, "{}"}}; err != nil || !same(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

// endless is a reader of one byte for ever.
type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func TestRecordsBoundMemory(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	for name, open := range map[string]func(io.Reader) records{
		"JSON": func(r io.Reader) records {
			recs := newJSONRecords(io.MultiReader(strings.NewReader(`{} {"a":"`), r))
			recs.in.limit = limit
			return recs
		},
		"CSV": func(r io.Reader) records {
			recs, err := newCSVRecords(io.MultiReader(strings.NewReader("a\n1\n\""), r), ',', nil)
			if err != nil {
				t.Fatal(err)
			}
			recs.rows.in.limit = limit
			return recs
		},
	} {
		got, err := readAll(t, open(endless('x')))
		if !errors.Is(err, errInput) || len(got) != 1 {
			t.Errorf("%s: %v, %v; want one record and errInput", name, got, err)
		}
	}
}

func TestRecordsPassOnReadErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken disk")
	for name, open := range map[string]func(io.Reader) (records, error){
		"JSON":   func(r io.Reader) (records, error) { return newJSONRecords(r), nil },
		"NDJSON": func(r io.Reader) (records, error) { return newLineRecords(r), nil },
		"CSV":    func(r io.Reader) (records, error) { return newCSVRecords(r, ',', []string{"a"}) },
	} {
		recs, err := open(io.MultiReader(strings.NewReader("{}\n{\"a\":"), iotest.ErrReader(broken)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(t, recs)
		if !errors.Is(err, broken) || len(got) != 1 {
			t.Errorf("%s: %v, %v; want one record and the error", name, got, err)
		}
	}
}

func TestCSVRecords(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, input string
		want        []seen
	}{
		{"it reads quoted line ends, commas and quotes", "a,b\n\"x\ny\",\"1,2\"\n\"say \"\"hi\"\"\",\n",
			[]seen{{2, `{"a":"x\ny","b":"1,2"}`}, {4, `{"a":"say \"hi\"","b":""}`}}},
		{"it takes the first of two columns of one name", "a,b,a\n1,2,3\n", []seen{{2, `{"a":"1","b":"2"}`}}},
		{"it names a column without a name", "a,,b\n1,2,3\n", []seen{{2, `{"a":"1","b":"3","column_2":"2"}`}}},
		{"it skips empty lines", "a\n\n1\n\r\n2", []seen{{3, `{"a":"1"}`}, {5, `{"a":"2"}`}}},
		{"it refuses rows of another length", "a,b\n1\n1,2,3\n1,2\n", []seen{{2, "!1 fields"}, {3, "!3 fields"}, {4, `{"a":"1","b":"2"}`}}},
		{"it reads lines that end with carriage returns", "a,b\r1,\"x\ry\"\r\r2,3\r", []seen{{2, `{"a":"1","b":"x\ry"}`}, {4, `{"a":"2","b":"3"}`}}},
		{"it keeps a carriage return inside a line", "a\n1\r2\n", []seen{{2, `{"a":"1\r2"}`}}},
		{"it reads quotes behind blanks", "\"a\", \"b\" ,\t\"c\"\n1, \"2, x\" , 3\n", []seen{{2, `{"a":"1","b":"2, x","c":"3"}`}}},
		{"it keeps blanks where names have none", "a,b\n 1 ,2\n", []seen{{2, `{"a":" 1 ","b":"2"}`}}},
		{"it refuses what is not UTF-8", "a\n\xff\nx\n", []seen{{2, "!UTF-8"}, {3, `{"a":"x"}`}}},
		{"it reads quotes in wrong places", "a,b\n\"the \"best\" of\",x\"y\nz,\"\"\n",
			[]seen{{2, `{"a":"the best\" of\"","b":"x\"y"}`}, {3, `{"a":"z","b":""}`}}},
		{"it reports a quote without an end", "a\n1\n\"2\n3\n", []seen{{2, `{"a":"1"}`}, {3, "!no end"}}},
		{"it reads an empty file", "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			recs, err := newCSVRecords(strings.NewReader(tc.input), ',', nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := readAll(t, recs)
			if err != nil || !same(got, tc.want) {
				t.Errorf("%q: %v, %v; want %v", tc.input, got, err, tc.want)
			}
		})
	}
}

// FuzzCSV compares with encoding/csv wherever that finds no fault, and where no carriage return stands alone, which may end a line.
func FuzzCSV(f *testing.F) {
	for _, seed := range []string{"a,b\n1,2\n", "\"a\r\nb\",\"\"\"\"\r\n", "x\r\ry\n\n\n\"\"\n", "a\r", "\"a\"\r", ",\n", "\"a\r"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		std := csv.NewReader(bytes.NewReader(data))
		std.FieldsPerRecord = -1
		want, err := std.ReadAll()
		if alone := bytes.ReplaceAll(bytes.TrimSuffix(data, []byte("\r")), []byte("\r\n"), nil); err == nil && bytes.Contains(alone, []byte("\r")) {
			return
		}
		c := newCSVReader(bytes.NewReader(data), ',')
		var got [][]string
		for {
			row, line, readErr := c.read()
			if errors.Is(readErr, io.EOF) {
				break
			}
			if line < 1 || line > 1+bytes.Count(data, []byte("\n"))+bytes.Count(data, []byte("\r")) {
				t.Fatalf("line %d of %q", line, data)
			}
			if readErr != nil {
				if err == nil {
					t.Fatalf("%q: %v", data, readErr)
				}
				break
			}
			got = append(got, slices.Clone(row))
		}
		if err == nil && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %q, encoding/csv has %q", data, got, want)
		}
	})
}

// FuzzJSONRecords holds that both JSON readers end, and that a value which they return is one that the text holds.
func FuzzJSONRecords(f *testing.F) {
	for _, seed := range []string{`[{"a":1},{"b":[2]}]`, "{\"a\":1\n{\"b\":2}\n", "{} {} x\n{\"c\":\"\xff\"}\n{}", "[1,2", "\"\\u0000\""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := 1 + bytes.Count(data, []byte("\n"))
		for _, recs := range []records{newJSONRecords(bytes.NewReader(data)), newLineRecords(bytes.NewReader(data))} {
			last := 1
			for n := 1; ; n++ {
				rec, err := recs.next()
				if err != nil {
					if !errors.Is(err, io.EOF) && jsontext.Value(data).IsValid() { // else a record may have no end that could be told
						t.Fatalf("%q: %v", data, err)
					}
					break
				}
				if rec.n != n || rec.line < last || rec.line > lines {
					t.Fatalf("%q: record %d has number %d, line %d after line %d", data, n, rec.n, rec.line, last)
				}
				last = rec.line
			}
		}
		strict := jsontext.Value(data)
		if !strict.IsValid() || bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
			return
		}
		got, err := readAll(t, newJSONRecords(bytes.NewReader(data)))
		if err != nil || len(got) != 1 || strings.HasPrefix(got[0].text, "!") {
			t.Fatalf("%q is one valid value, and was read as %v, %v", data, got, err)
		}
		want, _ := stdjson.Marshal(mustValue(t, data))
		if got[0].text != string(want) {
			t.Fatalf("%q: %s, want %s", data, got[0].text, want)
		}
	})
}

func mustValue(t *testing.T, data []byte) any {
	t.Helper()
	dec := stdjson.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}
