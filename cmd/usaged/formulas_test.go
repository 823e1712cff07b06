package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	formulasFile   = "spreadsheet_formula/euses_formulas.txt.gz"
	formulasEvents = 89_295
	formulasUsers  = 41

	formulaMeter = `meters:
  - name: formulas
    description: Formulas generated, by formula or by user.
    events: [spreadsheet_formula]
    reference: formula
    by: reference
`
)

// TestImportFormulas imports a file of CSV without a line of names into a meter of its own, whose references are formulas, and
// reads them as JSON and as CSV, in which none may be left that a spreadsheet would run.
func TestImportFormulas(t *testing.T) { onEachStore(t, testImportFormulas) }

func testImportFormulas(t *testing.T, s testStore) {
	file := realData(t, formulasFile)
	formulas, users := countFormulas(t, file)
	d := s.instance(t, "--meters.file="+metersFile(t, formulaMeter))
	d.start()
	report := d.importFile(0, "--format=csv", "--columns=formula", fmt.Sprintf(`--jq={event_type: "spreadsheet_formula", source: "euses",
		user_id: "u\($n %% %d)", created_at: (%d - $n %% 28 * 86400), metadata: .}`, formulasUsers, yesterdayNoon().Unix()), file)
	if report.Records != formulasEvents || report.Accepted != formulasEvents || !report.Complete {
		t.Errorf("report %+v, want %d records, all accepted", report, formulasEvents)
	}
	f := d.figures(30)
	if got, want := f.Ledger.All, (account{Accepted: formulasEvents, Counted: formulasEvents}); got != want {
		t.Errorf("ledger %+v, want %+v", got, want)
	}
	if diff := cmp.Diff(map[string]map[string]uint64{"spreadsheet_formula": users}, f.Summary); diff != "" {
		t.Errorf("summary (-want +got):\n%.2000s", diff)
	}
	d.wantMeter("imported", "formulas", "reference", 30, formulas)
	d.wantMeter("imported", "formulas", "user", 30, users)
	if n := d.overflow(); n != 0 {
		t.Errorf("%d references had no room", n)
	}
	a := d.do(http.MethodGet, "/api/v1/usage/formulas?days=30", "admin", map[string]string{"Accept": "text/csv"}, nil)
	checkFormulaCSV(t, "the endpoint", a.body, formulas)
	r := d.usagectl("meters", "show", "formulas", "--days=30", "--top=0", "--output=csv")
	checkFormulaCSV(t, "usagectl", []byte(r.stdout), formulas)
}

// countFormulas counts what the file comes to.
func countFormulas(t *testing.T, file string) (formulas, users map[string]uint64) {
	t.Helper()
	var tr struct {
		Records  int
		Distinct int `json:"distinct_formulas"`
	}
	readJSON(t, strings.TrimSuffix(file, ".gz")+".expected.json", &tr)
	formulas, users = map[string]uint64{}, map[string]uint64{}
	distinct := map[string]bool{}
	rows := readCSV(t, file)
	for i, row := range rows {
		distinct[row[0]] = true
		formulas[reference(row[0])]++
		users[fmt.Sprintf("u%d", (i+1)%formulasUsers)]++
	}
	if tr.Records != formulasEvents || len(rows) != tr.Records || len(distinct) != tr.Distinct {
		t.Fatalf("%d formulas, %d distinct; the truth is %+v", len(rows), len(distinct), tr)
	}
	return formulas, users
}

// checkFormulaCSV reads CSV as a spreadsheet would: no cell may begin as a formula does, and each formula must be there, behind
// an apostrophe where it would begin so.
func checkFormulaCSV(t *testing.T, from string, text []byte, formulas map[string]uint64) {
	t.Helper()
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil || len(rows) == 0 || !slices.Equal(rows[0], []string{"formula", "total"}) {
		t.Fatalf("%s: %v in %.100q", from, err, text)
	}
	got, defused := map[string]uint64{}, 0
	var live []string
	for _, row := range rows[1:] {
		key := row[0]
		if strings.ContainsAny(key[:1], "=+-@\t\r\n") {
			live = append(live, key)
		}
		if rest := strings.TrimLeft(key, "'"); rest != key && rest != "" && strings.ContainsAny(rest[:1], "=+-@\t\r\n") {
			key = key[1:]
			defused++
		}
		n, err := strconv.ParseUint(row[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		got[key] = n
	}
	if len(live) > 0 {
		t.Errorf("%s: a spreadsheet would run %d cells, first %q", from, len(live), live[0])
	}
	if !maps.Equal(formulas, got) {
		t.Errorf("%s: CSV (-want +got):\n%.2000s", from, cmp.Diff(formulas, got))
	}
	if defused == 0 {
		t.Errorf("%s: no formula needed an apostrophe", from)
	}
}
