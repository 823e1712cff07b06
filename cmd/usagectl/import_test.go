package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"usaged/aggregator/event"
)

// importing is a fake daemon with a tool that imports into it from a directory of its own.
func importing(t *testing.T) (*fakeDaemon, *tool, string) {
	t.Helper()
	d := newFakeDaemon(t)
	return d, &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}, t.TempDir()
}

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(text))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstandard(t *testing.T, text string) string {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return string(w.EncodeAll([]byte(text), nil))
}

func TestImportFormats(t *testing.T) {
	t.Parallel()
	ndjson := `{"event_type":"a","user_id":"ann","metadata":{"rows":3}}` + "\n\n" + `{"event_type":"b","user_id":"bob"}` + "\n"
	array := `[ {"event_type":"a","user_id":"ann","metadata":{"rows":3}},` + "\n" + `{"event_type":"b","user_id":"bob"}]`
	csv := "event_type,user_id,rows\r\na,ann,3\r\nb,bob,\r\n"
	for _, tc := range []struct {
		name, file, content string
		flags               []string
	}{
		{"it reads NDJSON", "e.ndjson", ndjson, nil},
		{"it reads lines of JSON", "e.jsonl", ndjson, nil},
		{"it reads an array", "e.json", array, nil},
		{"it reads values that follow each other", "e.json", strings.ReplaceAll(ndjson, "\n", " "), nil},
		{"it reads CSV", "e.csv", csv, nil},
		{"it reads TSV", "e.tsv", strings.ReplaceAll(csv, ",", "\t"), nil},
		{"it reads CSV with another delimiter", "e.csv", strings.ReplaceAll(csv, ",", ";"), []string{"--delimiter=;"}},
		{"it reads CSV without names", "e.csv", "a,ann,3\nb,bob,\n", []string{"--columns=event_type,user_id,rows"}},
		{"it skips a byte order mark", "e.csv", "\uFEFF" + csv, nil},
		{"it skips a byte order mark in JSON", "e.json", "\uFEFF" + array, nil},
		{"it reads gzip", "e.ndjson.gz", zipped(t, ndjson), nil},
		{"it reads gzip in two members", "e.ndjson.gz", zipped(t, ndjson[:20]) + zipped(t, ndjson[20:]), nil},
		{"it reads zstd", "e.csv.zst", zstandard(t, csv), nil},
		{"it sees gzip under another name", "e.ndjson", zipped(t, ndjson), nil},
		{"it tells JSON by its first character", "events", array, nil},
		{"it takes the format from a flag", "events", csv, []string{"--format=csv"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d, tl, dir := importing(t)
			path := writeFile(t, filepath.Join(dir, tc.file), tc.content)
			if code := tl.run(t, append([]string{"import", path}, tc.flags...)...); code != exitOK {
				t.Fatalf("exit %d, want 0", code)
			}
			got := d.events()
			if len(got) != 2 || got[0].UserID != "ann" || got[0].Metadata["rows"] != "3" || got[1].Type != "b" || len(got[1].Metadata) != 0 {
				t.Errorf("accepted %+v", got)
			}
		})
	}
}

func TestImportFromStdin(t *testing.T) {
	t.Parallel()
	d, tl, _ := importing(t)
	tl.stdin = zipped(t, `{"event_type":"a","created_at":"2020-01-01T18:00:00Z"}`)
	if code := tl.run(t, "import", "-", "--shift-to-now"); code != exitOK {
		t.Fatalf("exit %d, want 0", code)
	}
	want := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	if got := d.events(); len(got) != 1 || !got[0].CreatedAt.Equal(want) {
		t.Errorf("accepted %+v, want created_at %v", got, want)
	}
	if !strings.Contains(tl.stderr.String(), "shifted by 2517 days") {
		t.Errorf("stderr does not say the shift: %s", &tl.stderr)
	}
}

func TestImportRepeated(t *testing.T) {
	t.Parallel()
	d, tl, dir := importing(t)
	path := writeFile(t, filepath.Join(dir, "e.ndjson"), strings.Repeat(`{"event_type":"a","user_id":"ann"}`+"\n", 2500))
	for range 2 {
		if code := tl.run(t, "import", path, "--batch=100"); code != exitOK {
			t.Fatalf("exit %d, want 0", code)
		}
	}
	if len(d.events()) != 5000 || len(d.counted) != 2500 {
		t.Errorf("accepted %d, counted %d; want 5000 and 2500", len(d.events()), len(d.counted))
	}
	id := d.events()[0].ID
	if !strings.Contains(id, "-") || len(strings.Split(id, "-")[0]) != digestDigits {
		t.Errorf("id %q is not a digest and a number", id)
	}
}

// What was imported at noon is not counted again in the evening, when the file has grown, was renamed, compressed or cut at its
// beginning. Lines that say the same are as many events.
func TestImportGrownFile(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]func(int) string{
		"dated.ndjson": func(i int) string {
			return fmt.Sprintf(`{"event_type":"a","user_id":"u%d","created_at":"2026-11-20T10:00:00Z"}`, i/2)
		},
		"undated.ndjson": func(i int) string { return fmt.Sprintf(`{"event_type":"a","user_id":"u%d"}`, i/2) },
		"undated.csv":    func(i int) string { return fmt.Sprintf("a,u%d", i/2) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, tl, dir := importing(t)
			lines := func(from, to int) string {
				text := ""
				if strings.HasSuffix(name, ".csv") {
					text = "event_type,user_id\n"
				}
				for i := from; i < to; i++ {
					text += line(i) + "\n"
				}
				return text
			}
			step := func(file, text string, want int) {
				t.Helper()
				path := writeFile(t, filepath.Join(dir, file), text)
				if code := tl.run(t, "import", path); code != exitOK {
					t.Fatalf("%s: exit %d: %s", file, code, &tl.stderr)
				}
				if len(d.counted) != want {
					t.Errorf("%s: %d events are counted, want %d", file, len(d.counted), want)
				}
			}
			step(name, lines(0, 100), 100)
			step(name, lines(0, 110), 110)
			step("renamed-"+name, lines(0, 112), 112)
			var packed bytes.Buffer
			zw := gzip.NewWriter(&packed)
			if _, err := zw.Write([]byte(lines(0, 112))); err != nil || zw.Close() != nil {
				t.Fatal(err)
			}
			step(name+".gz", packed.String(), 112)
			step("crlf-"+name, strings.ReplaceAll(lines(0, 112), "\n", "\r\n"), 112)
			if strings.HasPrefix(name, "dated") {
				step("cut-"+name, lines(50, 114), 114)
				return
			}
			step("other-"+name, lines(50, 60), 122) // it may well say the same of other events
		})
	}
}

func TestImportInterrupted(t *testing.T) {
	t.Parallel()
	d, tl, dir := importing(t)
	path := writeFile(t, filepath.Join(dir, "e.ndjson"), strings.Repeat(`{"event_type":"a","user_id":"ann"}`+"\n", 2500))
	ctx, cancel := context.WithCancel(t.Context())
	d.faults = func(request int) (int, string) {
		if request == 5 {
			cancel()
		}
		return 0, ""
	}
	if code := tl.runContext(ctx, t, "import", path, "--batch=100"); code != exitFailure {
		t.Fatalf("exit %d, want 1", code)
	}
	if text := tl.stderr.String(); !strings.Contains(text, "the same command goes on from there") {
		t.Errorf("stderr does not say how to go on: %s", text)
	}
	if code := tl.run(t, "import", path, "--batch=100"); code != exitOK {
		t.Fatalf("exit %d, want 0", code)
	}
	if len(d.counted) != 2500 {
		t.Errorf("counted %d, want 2500", len(d.counted))
	}
}

func TestImportRefused(t *testing.T) {
	t.Parallel()
	d, tl, dir := importing(t)
	var lines strings.Builder
	bad := map[int]string{}
	for n := 1; n <= 1000; n++ {
		switch {
		case n%4 == 0: // 250 faults: more than one refusal lists
			bad[n] = "expired"
			fmt.Fprintln(&lines, `{"event_type":"a","user_id":"ann","created_at":"2020-01-01T00:00:00Z"}`)
		case n == 501:
			bad[n] = "too_long"
			fmt.Fprintf(&lines, `{"event_type":"a","metadata":{"text":%q}}`+"\n", strings.Repeat("x", event.MaxMetadataValueBytes+1))
		case n == 502:
			bad[n] = codeUnreadable
			fmt.Fprintln(&lines, `{"event_type":"a",`)
		case n == 503:
			bad[n] = codeUnreadable
			fmt.Fprintln(&lines, `{"event_type":"a","event_type":"b"}`)
		case n == 505:
			bad[n] = codeMapping
			fmt.Fprintln(&lines, `{"event_type":"a","metadata":{"list":[1]}}`)
		default:
			fmt.Fprintf(&lines, `{"event_type":"a","user_id":"user-%d"}`+"\n", n)
		}
	}
	path := writeFile(t, filepath.Join(dir, "e.ndjson"), lines.String())
	rejects := filepath.Join(dir, "out.ndjson")
	if code := tl.run(t, "import", path, "--rejects", rejects, "--batch=300", "--output=json"); code != exitFailure {
		t.Fatalf("exit %d, want 1", code)
	}
	r := tl.report(t)
	if r.Records != 1000 || r.Accepted != 1000-len(bad) || r.Refused != len(bad) || r.RefusedByReason["expired"] != 250 {
		t.Errorf("report %+v, want 1000 records, %d accepted, %d refused", r, 1000-len(bad), len(bad))
	}
	if n := len(d.events()); n != 1000-len(bad) {
		t.Errorf("the daemon has %d events, want %d", n, 1000-len(bad))
	}
	got := map[int]string{}
	for _, line := range readRejects(t, rejects) {
		got[line.Record] = line.Code
		if line.Line != line.Record || line.Reason == "" || line.File != "e.ndjson" || line.Input == "" && line.Event == nil {
			t.Errorf("rejected %+v", line)
		}
		if line.Record == 501 && line.Pointer != "/metadata/text" {
			t.Errorf("pointer %q, want /metadata/text", line.Pointer)
		}
	}
	if !maps.Equal(got, bad) {
		t.Errorf("rejected %v, want %v", got, bad)
	}
	if code := tl.run(t, "import", path, "--rejects", rejects, "--allow-rejects"); code != exitOK {
		t.Errorf("exit %d with --allow-rejects, want 0", code)
	}
}

func readRejects(t *testing.T, path string) []rejectRecord {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []rejectRecord
	for line := range bytes.Lines(data) {
		var r rejectRecord
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		list = append(list, r)
	}
	return list
}

func TestImportHalvesWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	d, tl, dir := importing(t)
	d.maxBody = 1000
	long := fmt.Sprintf(`{"event_type":"a","metadata":{"text":%q}}`+"\n", strings.Repeat("x", 1000))
	path := writeFile(t, filepath.Join(dir, "e.ndjson"), strings.Repeat(`{"event_type":"a","user_id":"ann"}`+"\n", 100)+long)
	rejects := filepath.Join(dir, "out.ndjson")
	if code := tl.run(t, "import", path, "--rejects", rejects); code != exitFailure {
		t.Fatalf("exit %d, want 1", code)
	}
	if n := len(d.events()); n != 100 {
		t.Errorf("accepted %d, want 100", n)
	}
	if list := readRejects(t, rejects); len(list) != 1 || list[0].Record != 101 || list[0].Code != "too_large" {
		t.Errorf("rejected %+v, want record 101", list)
	}
}

func TestImportRetries(t *testing.T) {
	t.Parallel()
	d, tl, dir := importing(t)
	d.faults = func(request int) (int, string) {
		if request == 2 || request == 6 {
			return http.StatusServiceUnavailable, ""
		}
		return 0, ""
	}
	path := writeFile(t, filepath.Join(dir, "e.ndjson"), strings.Repeat(`{"event_type":"a"}`+"\n", 30))
	for _, compression := range []string{"none", "gzip", "zstd"} {
		if code := tl.run(t, "import", path, "--batch=10", "--parallel=1", "--ids=none", "--compression", compression); code != exitOK {
			t.Fatalf("%s: exit %d, want 0", compression, code)
		}
	}
	if n := len(d.events()); n != 90 {
		t.Errorf("accepted %d, want 90", n)
	}
}

func TestImportStopsAtARefusalThatNamesNoEvent(t *testing.T) {
	t.Parallel()
	d, tl, dir := importing(t)
	d.faults = func(int) (int, string) { return http.StatusBadRequest, "" }
	path := writeFile(t, filepath.Join(dir, "e.ndjson"), strings.Repeat(`{"event_type":"a"}`+"\n", 30))
	rejects := filepath.Join(dir, "out.ndjson")
	if code := tl.run(t, "import", path, "--rejects", rejects); code != exitFailure {
		t.Errorf("exit %d, want 1", code)
	}
	if _, err := os.Stat(rejects); err == nil || d.requests != 1 {
		t.Errorf("events were taken for the fault after %d requests", d.requests)
	}
}

func TestImportStopsWhereTheDaemonRefusesTheToken(t *testing.T) {
	t.Parallel()
	_, tl, dir := importing(t)
	tl.env["USAGE_TOKEN"] = "stale"
	path := writeFile(t, filepath.Join(dir, "e.ndjson"), strings.Repeat(`{"event_type":"a"}`+"\n", 3000))
	if code := tl.run(t, "import", path, "--batch=10"); code != exitFailure {
		t.Fatalf("exit %d, want 1", code)
	}
	if text := tl.stderr.String(); !strings.Contains(text, "does not know the token in $USAGE_TOKEN") || strings.Contains(text, "stale") {
		t.Errorf("stderr: %s", text)
	}
}

func TestImportGoesOnBehindAFileThatBreaksOff(t *testing.T) {
	t.Parallel()
	d, tl, dir := importing(t)
	whole := zipped(t, strings.Repeat(`{"event_type":"a"}`+"\n", 10)+`{"event_type":"last"}`)
	broken := writeFile(t, filepath.Join(dir, "broken.ndjson.gz"), whole[:len(whole)-9])
	good := writeFile(t, filepath.Join(dir, "good.json"), `[{"event_type":"b"}]`)
	if code := tl.run(t, "import", broken, good); code != exitFailure {
		t.Fatalf("exit %d, want 1", code)
	}
	types := map[string]int{}
	for _, e := range d.events() {
		types[e.Type]++
	}
	if types["b"] != 1 || types["a"] == 0 {
		t.Errorf("accepted %v, want what was readable of both files", types)
	}
	if !strings.Contains(tl.stderr.String(), "broken.ndjson.gz") {
		t.Errorf("stderr does not name the file: %s", &tl.stderr)
	}
}

func TestImportDefaultsAndIDs(t *testing.T) {
	t.Parallel()
	const input = `{"id":7,"user_id":"ann","event_type":"own","source":"s"}` + "\n" + `{"id":null,"user_id":"","note":true}` + "\n"
	for _, tc := range []struct {
		ids  string
		want []string // of the ids, by whether the client sent them
	}{
		{idsAuto, []string{"7", "digest-1"}},
		{idsField, []string{"7", "server"}},
		{idsNone, []string{"server", "server"}},
	} {
		t.Run(tc.ids, func(t *testing.T) {
			t.Parallel()
			d, tl, dir := importing(t)
			path := writeFile(t, filepath.Join(dir, "e.ndjson"), input)
			if code := tl.run(t, "import", path, "--type=t", "--user=u", "--source=x", "--ids", tc.ids); code != exitOK {
				t.Fatalf("exit %d, want 0", code)
			}
			got := d.events()
			second := got[1]
			if got[0].Source != "s" || second.UserID != "u" || second.Type != "t" || second.Source != "x" || second.Metadata["note"] != "true" {
				t.Errorf("accepted %+v", got)
			}
			var ids []string
			for _, e := range got {
				id := e.ID
				if before, after, ok := strings.Cut(id, "-"); ok && len(before) == digestDigits {
					id = "digest-" + after
				}
				if !e.ClientID {
					id = "server"
				}
				ids = append(ids, id)
			}
			if !slices.Equal(ids, tc.want) {
				t.Errorf("ids %v, want %v", ids, tc.want)
			}
		})
	}
}

func TestImportFailsEarly(t *testing.T) {
	t.Parallel()
	_, tl, dir := importing(t)
	path := writeFile(t, filepath.Join(dir, "e.ndjson"), "{}")
	text := writeFile(t, filepath.Join(dir, "e.txt"), "hello")
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"it names a file that is not there", []string{"nowhere.json"}, exitFailure, "nowhere.json"},
		{"it refuses a directory", []string{dir}, exitFailure, "directory"},
		{"it shows where jq is wrong", []string{path, "--jq", "{event_type:\n .a b}"}, exitUsage, "line 2, column 5"},
		{"it names an unknown jq variable", []string{path, "--jq", "$nope"}, exitUsage, "$digest"},
		{"it asks for the format", []string{text}, exitUsage, "--format"},
		{"it bounds the batch", []string{path, "--batch=10001"}, exitUsage, "10000"},
		{"it wants stdin last", []string{"-", path}, exitUsage, "last"},
		{"it takes one shift", []string{path, "--shift-to-now", "--shift-days=2"}, exitUsage, "--shift-days"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tl := &tool{env: tl.env}
			if code := tl.run(t, append([]string{"import"}, tc.args...)...); code != tc.code {
				t.Errorf("exit %d, want %d", code, tc.code)
			}
			if !strings.Contains(tl.stderr.String(), tc.says) {
				t.Errorf("stderr %q, want %q", &tl.stderr, tc.says)
			}
		})
	}
}
