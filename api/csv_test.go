package api_test

import (
	"encoding/csv"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/event"
	"usaged/aggregator/rollup"
	"usaged/api"
)

// dangerous are cells that a spreadsheet would take for formulas, and what becomes of them; harmless ones stay as they are.
var dangerous = []struct{ cell, want string }{
	{"=1+1", "'=1+1"},
	{"+1", "'+1"},
	{"-1", "'-1"},
	{"@SUM(A1)", "'@SUM(A1)"},
	{"\t=1", "'\t=1"},
	{"\r=1", "'\r=1"},
	{"\n=1", "'\n=1"},
	{`=HYPERLINK("http://x","y")`, `'=HYPERLINK("http://x","y")`},
	{"'=1", "''=1"},
	{"''-1", "'''-1"},
	{"'", "'"},
	{"'tis", "'tis"},
	{"", ""},
	{" =1", " =1"},
	{"a=1", "a=1"},
	{"1-1", "1-1"},
	{"say \"hi\", twice", "say \"hi\", twice"},
	{"two\r\nlines", "two\r\nlines"},
}

func formulas() []rollup.TypeUsers {
	list := []rollup.TypeUsers{{Type: "=type"}}
	for i, d := range dangerous {
		list[0].Users = append(list[0].Users, rollup.Total{Key: d.cell, N: uint64(100 - i)})
	}
	return list
}

// csvRows reads CSV. encoding/csv reads CRLF in a cell as LF, so CR are compared in the golden file.
func csvRows(t testing.TB, rec *httptest.ResponseRecorder) [][]string {
	t.Helper()
	if got := rec.Header().Get("Content-Type"); got != "text/csv; charset=utf-8; header=present" {
		t.Fatalf("Content-Type %q: %s", got, rec.Body)
	}
	if !strings.HasSuffix(rec.Body.String(), "\r\n") {
		t.Errorf("the last line does not end: %q", rec.Body)
	}
	rows, err := csv.NewReader(rec.Body).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestFormulasAreDefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.rollups.types = formulas()
	want := [][]string{{"event_type", "user_id", "count"}}
	for i, d := range dangerous {
		want = append(want, []string{"'=type", strings.ReplaceAll(d.want, "\r\n", "\n"), fmt.Sprint(100 - i)})
	}
	got := csvRows(t, r.call("GET", "/api/v1/usage/summary", "admin", "", "Accept", "text/csv"))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestNegotiation asks for formats in every way there is.
func TestNegotiation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for accept, want := range map[string]string{
		"":                                   "json",
		"*/*":                                "json",
		"text/csv":                           "csv",
		"TEXT/CSV":                           "csv",
		"text/*":                             "csv",
		"text/csv, */*":                      "csv",
		"text/csv, application/json":         "json",
		"application/json;q=0.5, text/csv":   "csv",
		"application/json, text/csv;q=0.9":   "json",
		"text/csv;q=0, */*":                  "json",
		"application/json;q=0, */*":          "csv",
		"text/csv;q=0.2, */*;q=0.3":          "json",
		"text/*;q=0.5, text/csv;q=0.1, */*":  "json",
		"text/csv;header=present;q=1.0":      "csv",
		"text/csv; q=0.001":                  "csv",
		"text/csv;q=2":                       "json",
		"text/csv;q=x":                       "json",
		"text/html, application/xml;q=0.9":   "json",
		"application/*;q=0.1, text/csv;q=.2": "csv",
		"text/csv;;, ,/":                     "json",
	} {
		for _, path := range []string{"users", "summary", "daily", "queries?by=user", "minutes"} {
			rec := r.call("GET", "/api/v1/usage/"+path, "admin", "", "Accept", accept)
			if got := rec.Header().Get("Content-Type"); !strings.Contains(got, want) || rec.Code != 200 {
				t.Errorf("%s, Accept: %s: status %d, %s, want %s", path, accept, rec.Code, got, want)
			}
			if vary := strings.Join(rec.Header()["Vary"], ", "); !strings.Contains(vary+",", "Accept,") {
				t.Errorf("%s, Accept: %s: Vary %q", path, accept, vary)
			}
		}
	}
}

func TestFilesHaveNames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for path, want := range map[string]string{
		"summary":              "attachment; filename=usage-summary-2026-11-17-2026-11-23.csv",
		"queries?days=1":       "attachment; filename=usage-queries-by-reference-2026-11-23-2026-11-23.csv",
		"queries?by=user":      "attachment; filename=usage-queries-by-user-2026-11-17-2026-11-23.csv",
		"daily?days=2":         "attachment; filename=usage-daily-2026-11-22-2026-11-23.csv",
		"daily?meter=users":    "attachment; filename=usage-daily-by-meter-2026-10-25-2026-11-23.csv",
		"summary?days=1&top=1": "attachment; filename=usage-summary-2026-11-23-2026-11-23.csv",
	} {
		if got := r.call("GET", "/api/v1/usage/"+path, "admin", "", "Accept", "text/csv").Header().Get("Content-Disposition"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		if got := r.call("GET", "/api/v1/usage/"+path, "admin", "").Header().Get("Content-Disposition"); got != "" {
			t.Errorf("%s as JSON: Content-Disposition %q", path, got)
		}
	}
}

func TestLongCSVIsStreamed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.rollups.types = manyRows(20_000)
	rows := csvRows(t, r.call("GET", "/api/v1/usage/summary", "admin", "", "Accept", "text/csv"))
	n := 0
	for _, types := range r.rollups.types {
		for _, user := range types.Users {
			n++
			if want := []string{types.Type, user.Key, fmt.Sprint(user.N)}; !cmp.Equal(rows[n], want) {
				t.Fatalf("row %d is %q, want %q", n, rows[n], want)
			}
		}
	}
	if len(rows) != n+1 {
		t.Errorf("%d rows, want %d", len(rows), n+1)
	}
}

// restore takes back what was done to a cell.
func restore(cell string) string {
	if rest := strings.TrimLeft(cell, "'"); rest != cell && rest != "" && strings.ContainsRune("=+-@\t\r\n", rune(rest[0])) {
		return cell[1:]
	}
	return cell
}

// FuzzCSV gives any key to the API and reads it back.
func FuzzCSV(f *testing.F) {
	for _, d := range dangerous {
		f.Add(d.cell)
	}
	f.Add("\x1b[31mred\u009b1m\u202eleft\u2066")
	f.Add("a\r\rb\n\"\x00,")
	r := newRig(f)
	f.Fuzz(func(t *testing.T, key string) {
		r.rollups.types = []rollup.TypeUsers{{Type: "t", Users: []rollup.Total{{Key: key, N: 7}}}}
		rec := r.call("GET", "/api/v1/usage/summary", "admin", "", "Accept", "text/csv")
		body, err := io.ReadAll(rec.Body)
		if err != nil {
			t.Fatal(err)
		}
		line := strings.TrimPrefix(string(body), "event_type,user_id,count\r\nt,")
		cell, ok := strings.CutSuffix(line, ",7\r\n")
		if !ok || line == string(body) {
			t.Fatalf("got %q", body)
		}
		if quoted, ok := strings.CutPrefix(cell, `"`); ok {
			cell = strings.ReplaceAll(strings.TrimSuffix(quoted, `"`), `""`, `"`)
		} else if strings.ContainsAny(cell, ",\"\r\n") {
			t.Fatalf("%q is not quoted", cell)
		}
		if cell != "" && strings.ContainsRune("=+-@\t\r\n", rune(cell[0])) {
			t.Errorf("%q is a formula", cell)
		}
		if strings.ContainsFunc(cell, func(r rune) bool { return event.Hidden(r) && !strings.ContainsRune("\t\r\n", r) }) {
			t.Errorf("%q has hidden characters", cell)
		}
		visible := func(s string) string {
			for _, r := range s {
				if event.Hidden(r) && !strings.ContainsRune("\t\r\n", r) {
					s = strings.ReplaceAll(s, string(r), event.Visible(string(r)))
				}
			}
			return s
		}
		if got := restore(cell); got != visible(key) && utf8.ValidString(key) {
			t.Errorf("%q came back as %q", key, got)
		}
	})
}

var _ api.Rebuilder = &rebuilds{}
