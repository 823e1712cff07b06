package main

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	wikiSQLFile   = "nl2sql/wikisql_questions.jsonl.gz"
	wikiSQLEvents = 80_654
	wikiSQLUsers  = 97 // has no divisor in common with the days, so that all users ask on all days
	wikiSQLDays   = 28

	// What references and meters are limited to.
	referenceBytes   = 256
	referencesPerDay = 10_000
)

// wikiSQLQuestions are the questions of WikiSQL in the order of the file.
func wikiSQLQuestions(t *testing.T, file string) (questions []string) {
	t.Helper()
	var tr struct{ Rows int }
	readJSON(t, strings.TrimSuffix(file, ".gz")+".expected.json", &tr)
	for _, r := range readRecords[struct{ Question string }](t, file) {
		questions = append(questions, r.Question)
	}
	if tr.Rows != wikiSQLEvents || len(questions) != tr.Rows {
		t.Fatalf("%d questions, the truth is %d, want %d", len(questions), tr.Rows, wikiSQLEvents)
	}
	return questions
}

// reference is what a meter keeps of a text: as many whole runes as fit.
func reference(text string) string {
	kept := 0
	for at, r := range text {
		if at+len(string(r)) > referenceBytes {
			break
		}
		kept = at + len(string(r))
	}
	return text[:kept]
}

// yesterdayNoon is a time that is neither ahead of now nor near the end of a day, whenever a test begins.
func yesterdayNoon() time.Time {
	return time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -1).Add(12 * time.Hour)
}

// TestImportWikiSQL spreads questions over users and days, so that all references have room, and compares each total with a
// count of its own.
func TestImportWikiSQL(t *testing.T) { onEachStore(t, testImportWikiSQL) }

func testImportWikiSQL(t *testing.T, s testStore) {
	file := realData(t, wikiSQLFile)
	questions, users := map[string]uint64{}, map[string]uint64{}
	types, meters := map[string]map[string]uint64{}, map[string]map[string]uint64{} // by day
	last := yesterdayNoon()
	for i, question := range wikiSQLQuestions(t, file) {
		n := i + 1
		day := last.AddDate(0, 0, -(n % wikiSQLDays)).Format(time.DateOnly)
		questions[reference(question)]++
		users[fmt.Sprintf("analyst %d", n%wikiSQLUsers)]++
		if types[day] == nil {
			types[day], meters[day] = map[string]uint64{}, map[string]uint64{}
		}
		types[day]["sql_generation"]++
		meters[day]["queries"]++
	}
	d := s.instance(t)
	d.start()
	report := d.importFile(0, fmt.Sprintf(`--jq={event_type: "sql_generation", user_id: "analyst \($n %% %d)", source: "wikisql",
		created_at: (%d - $n %% %d * 86400), metadata: {question, db_id: .table_id}}`, wikiSQLUsers, last.Unix(), wikiSQLDays), file)
	if report.Records != wikiSQLEvents || report.Accepted != wikiSQLEvents || !report.Complete {
		t.Errorf("report %+v, want %d records, all accepted", report, wikiSQLEvents)
	}
	f := d.figures(30)
	f.Daily = notEmpty(f.Daily)
	all := account{Accepted: wikiSQLEvents, Counted: wikiSQLEvents}
	same(t, "imported", f, &figures{
		Summary: map[string]map[string]uint64{"sql_generation": users}, Users: users, Daily: types,
		Ledger: &ledger{All: all, Types: map[string]account{"sql_generation": all}}, Counters: map[string]uint64{"sql_generation": wikiSQLEvents},
	})
	d.wantMeter("imported", "queries", "reference", 30, questions)
	d.wantMeter("imported", "queries", "user", 30, users)
	if diff := cmp.Diff(meters, notEmpty(d.daily(30, "queries"))); diff != "" {
		t.Errorf("queries by day (-want +got):\n%.2000s", diff)
	}
	if n := d.overflow(); n != 0 {
		t.Errorf("%d references had no room", n)
	}
}

// wantMeter compares a dimension of a meter.
func (d *instance) wantMeter(when, meter, by string, days int, want map[string]uint64) {
	d.tb.Helper()
	var got map[string]uint64
	d.getJSON(fmt.Sprintf("/api/v1/usage/%s?by=%s&days=%d", meter, by, days), &got)
	if !maps.Equal(want, got) { // faster than a comparison that can say what differs
		d.tb.Errorf("%s: %s by %s (-want +got):\n%.2000s", when, meter, by, cmp.Diff(want, got))
	}
}

// overflow is how often a reference had no room since the daemon was started.
func (d *instance) overflow() uint64 {
	d.tb.Helper()
	return uint64(d.metric(`usaged_overflow_total{kind="references"}`))
}

// TestReferencesOverflow asks all questions on one day, which has room for the first 10,000 of them: what comes behind these
// is under __other__, in users' totals all the same, and counted as overflow.
func TestReferencesOverflow(t *testing.T) { onEachStore(t, testReferencesOverflow) }

func testReferencesOverflow(t *testing.T, s testStore) {
	file := realData(t, wikiSQLFile)
	want, turnedAway := map[string]uint64{}, map[string]bool{}
	for _, question := range wikiSQLQuestions(t, file) {
		key := reference(question)
		if _, known := want[key]; !known && len(want) == referencesPerDay {
			turnedAway[key] = true
			continue
		}
		want[key]++
	}
	other := uint64(wikiSQLEvents)
	for _, n := range want {
		other -= n
	}
	want["__other__"] = other

	d := s.instance(t)
	d.start()
	noon := yesterdayNoon()
	// One request at a time keeps the order of the file, in which references get their room.
	d.importFile(0, "--parallel=1", fmt.Sprintf(`--jq={event_type: "sql_generation", user_id: "ann", created_at: %d, metadata: {question}}`,
		noon.Unix()), file)
	check := func(when string) {
		t.Helper()
		d.settle()
		d.wantMeter(when, "queries", "reference", 30, want)
		d.wantMeter(when, "queries", "user", 30, map[string]uint64{"ann": wikiSQLEvents})
		// A question that comes again in one batch of the applier is one sum with its first.
		d.wantOverflow(when, d.overflow(), uint64(len(turnedAway)), other)
	}
	check("imported")
	d.kill()
	d.dropDatabase()
	d.start()
	check("killed and rebuilt")

	// Where no question comes again, on a day of its own, the overflow is the number of events without room.
	before := d.overflow()
	d.importFile(0, "--ids=none", fmt.Sprintf(`--jq={event_type: "sql_generation", user_id: "bob", created_at: %d, metadata: {question: "\($n). \(.question)"}}`,
		noon.AddDate(0, 0, -1).Unix()), file)
	d.settle()
	d.wantOverflow("different questions", d.overflow()-before, wikiSQLEvents-referencesPerDay, wikiSQLEvents-referencesPerDay)
	keys := map[string]uint64{}
	d.getJSON("/api/v1/usage/queries?days=30", &keys)
	if n := keys["__other__"] - other; n != wikiSQLEvents-referencesPerDay {
		t.Errorf("different questions: %d under __other__, want %d", n, wikiSQLEvents-referencesPerDay)
	}
}

// wantOverflow expects an overflow in a range.
func (d *instance) wantOverflow(when string, got, least, most uint64) {
	d.tb.Helper()
	if got < least || got > most {
		d.tb.Errorf("%s: the overflow is %d, want %d to %d", when, got, least, most)
	}
}
