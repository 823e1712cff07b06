package quiet_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"usaged/rules/quiet"
)

// monday is a Monday at noon, UTC.
var monday = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// rig is a data directory and a clock.
type rig struct {
	t     *testing.T
	dir   string
	at    time.Time
	times *quiet.Times
}

func (r *rig) config() quiet.Config {
	cfg := quiet.Config{Path: filepath.Join(r.dir, "quiet.json"), Now: func() time.Time { return r.at }}
	if calendar := filepath.Join(r.dir, "quiet.yml"); exists(calendar) {
		cfg.Calendar = calendar
	}
	return cfg
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func newRig(t *testing.T, calendar string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), at: monday}
	if calendar != "" {
		r.write(calendar)
	}
	r.open()
	return r
}

func (r *rig) write(calendar string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, "quiet.yml"), []byte(calendar), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	if r.times, err = quiet.Open(r.config()); err != nil {
		r.t.Fatal(err)
	}
}

// exports compares the gauge with its value by event type.
func (r *rig) exports(want ...string) {
	r.t.Helper()
	text := "# HELP usaged_quiet 1 while a planned quiet time lasts for a type of events, __all__ for every type; 0 where one is planned.\n" +
		"# TYPE usaged_quiet gauge\n"
	for _, line := range want {
		name, value, _ := strings.Cut(line, " ")
		text += fmt.Sprintf("usaged_quiet{event_type=%q} %s\n", name, value)
	}
	if err := testutil.CollectAndCompare(r.times, strings.NewReader(text)); err != nil {
		r.t.Errorf("at %s: %v", r.at, err)
	}
}

// TestAddedTimesLast plans, ends and outlives quiet times, over restarts.
func TestAddedTimesLast(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.exports("__all__ 0")
	now, err := r.times.Add(quiet.Entry{Until: monday.Add(time.Hour), Reason: "the office moves"})
	if err != nil {
		t.Fatal(err)
	}
	later, err := r.times.Add(quiet.Entry{From: monday.Add(2 * time.Hour), Until: monday.Add(3 * time.Hour), Types: []string{"b", "a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	r.exports("__all__ 1", "a 0", "b 0")
	want := []quiet.Entry{
		{ID: "1", From: monday, Until: monday.Add(time.Hour), Reason: "the office moves"},
		{ID: "2", From: monday.Add(2 * time.Hour), Until: monday.Add(3 * time.Hour), Types: []string{"a", "b"}},
	}
	r.open()
	if diff := cmp.Diff(want, r.times.List()); diff != "" {
		t.Errorf("after a restart, want (-), got (+):\n%s", diff)
	}
	r.at = monday.Add(time.Hour)
	r.exports("__all__ 0", "a 0", "b 0")
	if err := r.times.End(now.ID); !errors.Is(err, quiet.ErrUnknown) {
		t.Errorf("end of what is over: %v, want ErrUnknown", err)
	}
	r.at = monday.Add(2 * time.Hour)
	r.exports("__all__ 0", "a 1", "b 1")
	if err := r.times.End(later.ID); err != nil {
		t.Error(err)
	}
	r.exports("__all__ 0")
	r.open()
	if list := r.times.List(); len(list) > 0 {
		t.Errorf("what was ended is there after a restart: %v", list)
	}
	if again, err := r.times.Add(quiet.Entry{Until: r.at.Add(time.Hour)}); err != nil || again.ID != "3" {
		t.Errorf("the next has the id %q, %v; want 3, no id is used twice", again.ID, err)
	}
}

func TestAddRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	hour := monday.Add(time.Hour)
	for _, tc := range []struct {
		name  string
		entry quiet.Entry
		field string
	}{
		{"it wants an end", quiet.Entry{}, "until"},
		{"it wants an end ahead", quiet.Entry{Until: monday}, "until"},
		{"it wants the end behind the beginning", quiet.Entry{From: hour, Until: hour}, "until"},
		{"it wants an end within a year", quiet.Entry{Until: monday.Add(371 * 24 * time.Hour)}, "until"},
		{"it doesn't begin in the past", quiet.Entry{From: monday.Add(-2 * time.Minute), Until: hour}, "from"},
		{"it takes no name of ours", quiet.Entry{Until: hour, Types: []string{"__all__"}}, "event_types/0"},
		{"it takes no control characters", quiet.Entry{Until: hour, Types: []string{"a", "b\n"}}, "event_types/1"},
		{"it takes so many types", quiet.Entry{Until: hour, Types: strings.Split(strings.Repeat("a,", 21)+"b", ",")}, ""},
		{"it takes a short reason", quiet.Entry{Until: hour, Reason: strings.Repeat("x", 201)}, "reason"},
	} {
		_, err := r.times.Add(tc.entry)
		faults, ok := errors.AsType[quiet.Faults](err)
		if tc.field == "" && err == nil { // 21 times a, and b, are two
			continue
		}
		if !ok || len(faults) != 1 || faults[0].Field != tc.field {
			t.Errorf("%s: %v, want a fault of %s", tc.name, err, tc.field)
		}
	}
	for len(r.times.List()) < quiet.MaxEntries {
		if _, err := r.times.Add(quiet.Entry{Until: hour}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.times.Add(quiet.Entry{Until: hour}); !errors.Is(err, quiet.ErrFull) {
		t.Errorf("one more than there may be: %v, want ErrFull", err)
	}
	r.at = hour // all are over
	if _, err := r.times.Add(quiet.Entry{Until: hour.Add(time.Hour)}); err != nil {
		t.Errorf("after the others are over: %v", err)
	}
}

// TestAddIsDurableOrNot has a disk that fails: nothing is planned, nothing ended.
func TestAddIsDurableOrNot(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	e, err := r.times.Add(quiet.Entry{Until: monday.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(r.dir); err != nil { // so that nothing can be written
		t.Fatal(err)
	}
	if _, err := r.times.Add(quiet.Entry{Until: monday.Add(time.Hour)}); err == nil {
		t.Error("it was planned although it could not be written")
	}
	if err := r.times.End(e.ID); err == nil {
		t.Error("it was ended although that could not be written")
	}
	if list := r.times.List(); len(list) != 1 || list[0].ID != e.ID {
		t.Errorf("%v, want the first alone", list)
	}
}

func TestDamagedFile(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"{", `{"version": 2}`} {
		path := filepath.Join(t.TempDir(), "quiet.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := quiet.Open(quiet.Config{Path: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names the file", text, err)
		}
	}
}

const vienna = `
time_zone: Europe/Vienna
once:
  - {from: 2026-12-24 14:00, until: 2026-12-27, reason: Christmas}
  - {from: 2026-11-23T11:00:00Z, until: "2026-11-23 14:00", event_types: [sql_generation]}
weekly:
  - {days: [sat, sun], from: 00:00, until: 24:00, reason: weekend}
  - {from: "22:30", until: 6:00, event_types: [nightly], time_zone: America/New_York}
`

// TestCalendar walks through the calendar.
func TestCalendar(t *testing.T) {
	t.Parallel()
	r := newRig(t, vienna)
	zone, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		at   string // in Vienna
		want []string
	}{
		{"2026-11-23 11:59", []string{"__all__ 0", "nightly 1", "sql_generation 0"}}, // 5:59 in New York
		{"2026-11-23 12:00", []string{"__all__ 0", "nightly 0", "sql_generation 1"}},
		{"2026-11-23 14:00", []string{"__all__ 0", "nightly 0"}},
		{"2026-11-24 04:29", []string{"__all__ 0", "nightly 0"}},
		{"2026-11-24 04:30", []string{"__all__ 0", "nightly 1"}},
		{"2026-11-27 23:59", []string{"__all__ 0", "nightly 0"}},
		{"2026-11-28 00:00", []string{"__all__ 1", "nightly 0"}},
		{"2026-11-29 23:59", []string{"__all__ 1", "nightly 0"}},
		{"2026-11-30 00:00", []string{"__all__ 0", "nightly 0"}},
		{"2026-12-24 13:59", []string{"__all__ 0", "nightly 0"}},
		{"2026-12-24 14:00", []string{"__all__ 1", "nightly 0"}},
		{"2027-03-28 23:30", []string{"__all__ 1", "nightly 0"}}, // a day of 23 hours
		{"2027-03-29 00:00", []string{"__all__ 0", "nightly 0"}},
	} {
		if r.at, err = time.ParseInLocation("2006-01-02 15:04", tc.at, zone); err != nil {
			t.Fatal(err)
		}
		r.exports(tc.want...)
	}
	r.at = monday
	var list []string
	for _, e := range r.times.List() {
		list = append(list, fmt.Sprint(e.Line, e.Weekly, e.From.UTC().Format(" 01-02 15:04"), e.Until.UTC().Format(" 01-02 15:04")))
	}
	want := []string{
		"5 false 11-23 11:00 11-23 13:00", "8 true 11-24 03:30 11-24 11:00", "7 true 11-27 23:00 11-28 23:00", "4 false 12-24 13:00 12-26 23:00",
	}
	if !slices.Equal(list, want) {
		t.Errorf("listed are %q, want %q", list, want)
	}
}

// TestCalendarRepeats has what YAML offers for not writing a thing twice.
func TestCalendarRepeats(t *testing.T) {
	t.Parallel()
	r := newRig(t, `
weekly:
  - &weekend {days: &days [sat, sun], from: 00:00, until: 24:00}
  - {<<: *weekend, event_types: [a]}
  - {days: *days, from: 00:00, until: 24:00, event_types: [b]}
`)
	r.exports("__all__ 0", "a 0", "b 0")
	r.at = monday.Add(-24 * time.Hour)
	r.exports("__all__ 1", "a 1", "b 1")
}

// TestReload keeps what is in force where the file is wrong.
func TestReload(t *testing.T) {
	t.Parallel()
	r := newRig(t, "weekly: [{from: 00:00, until: 24:00}]")
	r.exports("__all__ 1")
	r.write("weekly: [{from: noon, until: 24:00}]")
	if err := r.times.Reload(); err == nil || !strings.Contains(err.Error(), `quiet.yml:1: from: "noon" is no time of day`) {
		t.Errorf("reload of a wrong file: %v", err)
	}
	r.exports("__all__ 1")
	r.write("")
	if err := r.times.Reload(); err != nil {
		t.Error(err)
	}
	r.exports("__all__ 0")
}

func TestWrongCalendar(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ text, want string }{
		{"once: [{from: 2026-12-24}]", `1: until: "" is no time, as 2026-12-24 14:00`},
		{"once:\n- from: 2026-12-24\n  until: 2026-12-24", "3: until: the end must lie behind the beginning"},
		{"once:\n- from: tomorrow\n  until: 2026-12-24", `2: from: "tomorrow" is no time`},
		{"weekly:\n- days: [sat, someday]\n  from: 00:00\n  until: 24:00", `2: days: "someday" is none of sun, mon`},
		{"weekly: [{days: [], from: 00:00, until: 24:00}]", "1: days: name some"},
		{"weekly: [{from: 24:00, until: 24:00}]", "1: from: a day begins at 00:00"},
		{"weekly: [{from: 00:00, until: 24:01}]", `1: until: "24:01" is no time of day`},
		{"weekly: [{from: 00:00, until: 12:00, event_types: [__all__]}]", `1: event_types: "__all__" is no event type`},
		{"weekly:\n- from: 00:00\n  until: 24:00\n  reason: |\n    two\n    lines", "4: reason: it must be one line"},
		{"time_zone: Vienna", `1: time_zone: "Vienna" is not known, name one as Europe/Vienna`},
		{"once:\n- from: 2026-12-24\n  to: 2026-12-25", `3: unknown field "to"`},
		{"sometimes: []", `1: unknown field "sometimes": the file may have time_zone, once, weekly`},
		{"once: yes", "1: this must be a list"},
		{"once: [", "1: did not find expected node content"},
		{"weekly:\n- &a {from: 00:00, until: noon}\n- *a", `2: until: "noon" is no time of day`},
		{"once: []\n---\nonce: []", "1: the file has more than one document"},
		{"once: [" + strings.Repeat("{from: 2026-12-24, until: 2026-12-25},", 101) + "]", "1: there are 101 quiet times: at most 100"},
	} {
		path := filepath.Join(t.TempDir(), "quiet.yml")
		if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := quiet.Check(path); err == nil || !strings.Contains(err.Error(), path+":"+tc.want) {
			t.Errorf("%.60q: %v, want %s", tc.text, err, tc.want)
		}
	}
	if err := quiet.Check("nowhere.yml"); err == nil || !strings.Contains(err.Error(), "--quiet.file") {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := quiet.Check(""); err != nil {
		t.Errorf("no file: %v", err)
	}
}
