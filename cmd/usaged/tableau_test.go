package main

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	tableauFile   = "dashboard_publish/tableau_votd_2010_2022.csv.gz"
	tableauEvents = 2438
	tableauNobody = "unknown author"
	// Its years are more than the longest retention, so they pass twice as fast.
	tableauPace = 2
	tableauDays = 2400
	tableauLast = "28/12/2022"

	viewsMeter = `meters:
  - name: dashboard-views
    events: [dashboard_publish]
    reference: dashboard_id
    value: views
    by: reference
`
)

// readCSV reads the rows of a packed file with another reader than the tool's.
func readCSV(t *testing.T, file string) [][]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(text).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// tableauCount is what a file of dashboards of the day comes to.
type tableauCount struct {
	users, dashboards, views, viewsByUser map[string]uint64

	days     map[string]map[string]uint64
	noViews  int
	withoutN int // where the second of two columns of one name is empty
}

// countTableau counts by the columns' numbers. last is when the newest was published.
func countTableau(t *testing.T, file string, last time.Time) *tableauCount {
	t.Helper()
	rows := readCSV(t, file)
	head, rows := rows[0], rows[1:]
	column := func(name string) int { return slices.Index(head, name) } // the first of that name
	workbook, author, date, views := column("workbookRepoUrl"), column("authorProfileName"), column("votd_date"), column("viewCount")
	second := workbook + 1 + slices.Index(head[workbook+1:], "workbookRepoUrl")
	newest := tableauDate(t, tableauLast)
	c := &tableauCount{map[string]uint64{}, map[string]uint64{}, map[string]uint64{}, map[string]uint64{}, map[string]map[string]uint64{}, 0, 0}
	for _, row := range rows {
		user := row[author]
		if user == "" {
			user = tableauNobody
		}
		c.users[user]++
		c.dashboards[row[workbook]]++
		day := last.Add(-newest.Sub(tableauDate(t, row[date])) / tableauPace).Format(time.DateOnly)
		if c.days[day] == nil {
			c.days[day] = map[string]uint64{}
		}
		c.days[day]["dashboards"]++
		n, err := strconv.ParseUint(row[views], 10, 64)
		if err != nil {
			c.noViews++
		}
		c.views[row[workbook]] += n
		c.viewsByUser[user] += n
		if row[second] == "" {
			c.withoutN++
		}
	}
	return c
}

func tableauDate(t *testing.T, text string) time.Time {
	t.Helper()
	date, err := time.Parse("02/01/2006", text)
	if err != nil {
		t.Fatal(err)
	}
	return date
}

// tableauTruth is the part of what stands beside the file that does not depend on time.
type tableauTruth struct {
	truth
	Workbooks    int    `json:"distinct_workbooks"`
	Views        uint64 `json:"view_count_total"`
	WithoutViews int    `json:"rows_without_viewCount"`
}

// check compares the truth with the count, which goes further.
func (tr *tableauTruth) check(t *testing.T, c *tableauCount) {
	t.Helper()
	total := uint64(0)
	for _, n := range c.views {
		total += n
	}
	got := []uint64{uint64(len(c.users)) - 1, c.users[tableauNobody], uint64(len(c.dashboards)), total, uint64(c.noViews)}
	want := []uint64{uint64(tr.Users), tr.WithoutUser, uint64(tr.Workbooks), tr.Views, uint64(tr.WithoutViews)}
	if tr.Events != tableauEvents || !slices.Equal(got, want) || c.withoutN == 0 {
		t.Fatalf("the count has %d (users, without one, workbooks, views, without them), the truth %d", got, want)
	}
	for _, busiest := range tr.BusiestUsers {
		if n := c.users[busiest.User]; n != busiest.Events {
			t.Fatalf("the count has %d events of %q, the truth %d", n, busiest.User, busiest.Events)
		}
	}
}

// TestImportTableau imports dashboards of the day from CSV that has line ends in cells, two columns of one name, rows without
// an author and rows without views.
func TestImportTableau(t *testing.T) { onEachStore(t, testImportTableau) }

func testImportTableau(t *testing.T, s testStore) {
	file := realData(t, tableauFile)
	var tr tableauTruth
	readJSON(t, strings.TrimSuffix(file, ".gz")+".expected.json", &tr)
	last := yesterdayNoon()
	want := countTableau(t, file, last)
	tr.check(t, want)
	d := s.instance(t, "--meters.file="+metersFile(t, viewsMeter), fmt.Sprintf("--retention.days=%d", tableauDays))
	d.start()
	report := d.importFile(0, "--user="+tableauNobody, "--type=dashboard_publish", fmt.Sprintf(`--jq={user_id: (.authorProfileName | select(. != "")) // null,
		created_at: (%d - ((%q | strptime("%%d/%%m/%%Y") | mktime) - (.votd_date | strptime("%%d/%%m/%%Y") | mktime)) / %d),
		metadata: {dashboard_id: .workbookRepoUrl, title, views: .viewCount, adapter: "tableau"}}`, last.Unix(), tableauLast, tableauPace), file)
	if report.Records != tableauEvents || report.Accepted != tableauEvents || !report.Complete {
		t.Errorf("report %+v, want %d records, all accepted", report, tableauEvents)
	}
	f := d.figures(tableauDays)
	types := map[string]uint64{"dashboard_publish": tableauEvents}
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"summary", f.Summary, map[string]map[string]uint64{"dashboard_publish": want.users}},
		{"users", f.Users, want.users},
		{"usage_events_total", f.Counters, types},
		{"ledger", f.Ledger.All, account{Accepted: tableauEvents, Counted: tableauEvents}},
		{"dashboards by day", notEmpty(d.daily(tableauDays, "dashboards")), want.days},
		{"usaged_bad_values_total", int(d.metric("usaged_bad_values_total")), want.noViews},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%.2000s", c.what, diff)
		}
	}
	d.wantMeter("imported", "dashboards", "user", tableauDays, want.users)
	d.wantMeter("imported", "dashboards", "reference", tableauDays, want.dashboards)
	d.wantMeter("imported", "dashboard-views", "user", tableauDays, want.viewsByUser)
	d.wantMeter("imported", "dashboard-views", "reference", tableauDays, want.views)
}
