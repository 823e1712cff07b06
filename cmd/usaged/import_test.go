package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// truth is what stands beside a file of real data, computed by other means.
type truth struct {
	Events       uint64            `json:"total_events"`
	Users        int               `json:"distinct_users"`
	WithoutUser  uint64            `json:"events_without_user"`
	Types        map[string]uint64 `json:"events_per_type"`
	UsersPerN    map[string]int    `json:"users_per_event_count_hist"`
	BusiestUsers []struct {
		User   string
		Events uint64
	} `json:"top10_users"`
	BusiestByType map[string]map[string]uint64 `json:"top10_users_by_type"`
	Daily         map[string]map[string]uint64 `json:"events_per_day_and_type_utc"`
	Tokens        struct {
		Total uint64 `json:"total_tokens"`
	} `json:"tokens_total"`
	TokensPerModel map[string]struct {
		Total uint64 `json:"total_tokens"`
	} `json:"tokens_per_main_model"`
}

func readTruth(t *testing.T, file string) *truth {
	t.Helper()
	data, err := os.ReadFile(strings.TrimSuffix(file, ".gz") + ".expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var tr truth
	if err := json.Unmarshal(data, &tr); err != nil {
		t.Fatal(err)
	}
	return &tr
}

// readRecords reads a file of one JSON object a line.
func readRecords[T any](t *testing.T, file string) []T {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(unpacked)
	lines.Buffer(nil, 1<<20)
	var records []T
	for lines.Scan() {
		var r T
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return records
}

// importReport is the answer of usagectl import --output=json.
type importReport struct {
	Records, Events, Accepted, Skipped, Refused int

	RefusedByReason map[string]int `json:"refused_by_reason"`
	RejectsFile     string         `json:"rejects_file"`
	ShiftDays       int            `json:"shift_days"`
	Complete        bool
}

// importFile imports and expects an exit code.
func (d *instance) importFile(code int, args ...string) *importReport {
	d.tb.Helper()
	r := d.usagectl(append([]string{"import", "--output=json"}, args...)...)
	if r.code != code {
		d.tb.Fatalf("import: exit code %d, want %d:\n%s", r.code, code, r.stderr)
	}
	var report importReport
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		d.tb.Fatalf("import: %v in %q", err, r.stdout)
	}
	return &report
}

// count adds up a summary by type and by user.
func count(summary map[string]map[string]uint64) (types, users map[string]uint64) {
	types, users = map[string]uint64{}, map[string]uint64{}
	for eventType, byUser := range summary {
		for user, n := range byUser {
			types[eventType] += n
			users[user] += n
		}
	}
	return types, users
}

// checkTotals compares everything that the daemon says with the truth about one file of which every event was counted once.
func checkTotals(t *testing.T, f *figures, tr *truth) {
	t.Helper()
	types, users := count(f.Summary)
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"types in the summary", types, tr.Types},
		{"types in /metrics", f.Counters, tr.Types},
		{"users", f.Users, users},
		{"number of users", len(f.Users), tr.Users},
		{"accepted and not pending", f.Ledger.All.Accepted - f.Ledger.All.Pending - f.Ledger.All.Duplicates, tr.Events},
		{"counted", f.Ledger.All.Counted, tr.Events},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%.2000s", c.what, diff)
		}
	}
	for eventType, n := range tr.Types {
		if got := f.Ledger.Types[eventType].Counted; got != n {
			t.Errorf("ledger of type %q: counted %d, want %d", eventType, got, n)
		}
	}
	checkUsers(t, f, tr)
}

// checkUsers compares the busiest users and how many users have how many events.
func checkUsers(t *testing.T, f *figures, tr *truth) {
	t.Helper()
	for _, u := range tr.BusiestUsers {
		if got := f.Users[u.User]; got != u.Events {
			t.Errorf("user %q has %d events, want %d", u.User, got, u.Events)
		}
	}
	for user, want := range tr.BusiestByType {
		got := map[string]uint64{}
		for eventType, users := range f.Summary {
			if n := users[user]; n > 0 {
				got[eventType] = n
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("types of user %q (-want +got):\n%s", user, diff)
		}
	}
	perN := map[string]int{}
	for _, n := range f.Users {
		perN[fmt.Sprint(n)]++
	}
	if diff := cmp.Diff(tr.UsersPerN, perN); diff != "" {
		t.Errorf("users per number of events (-want +got):\n%.2000s", diff)
	}
}

// notEmpty leaves out the days without events.
func notEmpty(daily map[string]map[string]uint64) map[string]map[string]uint64 {
	daily = maps.Clone(daily)
	maps.DeleteFunc(daily, func(_ string, types map[string]uint64) bool { return len(types) == 0 })
	return daily
}

// wikiEdit is a record of wikiticker.
type wikiEdit struct {
	Time                time.Time
	Channel, User, Page string
	IsRobot             bool
}

const (
	wikiFile = "events/wikiticker-2015-09-12-sampled.json.gz"
	wikiJQ   = `{event_type: .channel, user_id: .user, created_at: .time, source: "wikipedia", metadata: {page, isRobot, added}}`
	wikiDay  = "2015-09-12"
)

func wikiSummary(t *testing.T, file string) map[string]map[string]uint64 {
	t.Helper()
	summary := map[string]map[string]uint64{}
	for _, r := range readRecords[wikiEdit](t, file) {
		if summary[r.Channel] == nil {
			summary[r.Channel] = map[string]uint64{}
		}
		summary[r.Channel][r.User]++
	}
	return summary
}

func TestImportWikipedia(t *testing.T) { onEachStore(t, testImportWikipedia) }

func testImportWikipedia(t *testing.T, s testStore) {
	file := realData(t, wikiFile)
	tr := readTruth(t, file)
	d := s.instance(t)
	d.start()
	before := time.Now()
	report := d.importFile(0, "--shift-to-now", "--jq="+wikiJQ, file)
	if report.Records != int(tr.Events) || report.Accepted != int(tr.Events) || !report.Complete {
		t.Errorf("report %+v, want %d records, all accepted", report, tr.Events)
	}
	f := d.figures(7)
	checkTotals(t, f, tr)
	if diff := cmp.Diff(wikiSummary(t, file), f.Summary); diff != "" {
		t.Errorf("summary (-want +got):\n%.2000s", diff)
	}
	day, last := shifted(t, wikiDay, report.ShiftDays), before.Add(-48*time.Hour).UTC().Format(time.DateOnly)
	if day <= last || day > time.Now().UTC().Format(time.DateOnly) {
		t.Errorf("the events are on %s, want the day before now", day)
	}
	if diff := cmp.Diff(map[string]map[string]uint64{day: tr.Daily[wikiDay]}, notEmpty(f.Daily)); diff != "" {
		t.Errorf("daily (-want +got):\n%.2000s", diff)
	}
	checkTop(t, d, tr)

	again := d.importFile(0, fmt.Sprintf("--shift-days=%d", report.ShiftDays), "--jq="+wikiJQ, file)
	if again.Accepted != int(tr.Events) {
		t.Errorf("imported again: accepted %d, want %d", again.Accepted, tr.Events)
	}
	second := d.figures(7)
	if got := second.Ledger.All.Duplicates; got != tr.Events {
		t.Errorf("imported again: %d duplicates, want %d", got, tr.Events)
	}
	second.Ledger = f.Ledger
	same(t, "imported again", second, f)
}

// shifted moves a day.
func shifted(t *testing.T, day string, days int) string {
	t.Helper()
	d, err := time.Parse(time.DateOnly, day)
	if err != nil {
		t.Fatal(err)
	}
	return d.AddDate(0, 0, days).Format(time.DateOnly)
}

// checkTop compares the tool's busiest users with the truth. The last rank may be shared.
func checkTop(t *testing.T, d *instance, tr *truth) {
	t.Helper()
	var top struct {
		Users []struct {
			Key    string
			Events uint64
		}
	}
	r := d.usagectl("top", "--days=7", "--output=json")
	if err := json.Unmarshal([]byte(r.stdout), &top); r.code != 0 || err != nil {
		t.Fatalf("top: exit code %d, %v, %s", r.code, err, r.stderr)
	}
	if len(top.Users) != len(tr.BusiestUsers) {
		t.Fatalf("top shows %d users, want %d", len(top.Users), len(tr.BusiestUsers))
	}
	for i, want := range tr.BusiestUsers {
		if got := top.Users[i]; got.Events != want.Events || got.Key != want.User {
			t.Errorf("rank %d: %+v, want %+v", i+1, got, want)
		}
	}
}

// hubEvent is a record of the minimised GH Archive.
type hubEvent struct{ ID, Dt, Repo, Type, Actor string }

const (
	hubFile = "events/gharchive_min_2015-04-23-10.jsonl.gz"
	hubJQ   = `{id, event_type: .type, user_id: .actor, created_at: .dt, source: "github", metadata: {repo}}`
)

// TestImportGitHub imports events with ids of their own, at the time of the events, and then sends them again as curl would.
func TestImportGitHub(t *testing.T) {
	t.Parallel()
	file := realData(t, hubFile)
	tr := readTruth(t, file)
	d := newInstance(t)
	d.clockAt(time.Date(2015, 4, 23, 14, 0, 0, 0, time.UTC))
	d.start()
	report := d.importFile(0, "--ids=field", "--jq="+hubJQ, "--compression=zstd", file)
	if report.Records != int(tr.Events) || report.Accepted != int(tr.Events) {
		t.Errorf("report %+v, want %d records, all accepted", report, tr.Events)
	}
	f := d.figures(1)
	checkTotals(t, f, tr)
	if diff := cmp.Diff(tr.Daily, f.Daily); diff != "" {
		t.Errorf("daily (-want +got):\n%.2000s", diff)
	}

	var lines []string
	for _, r := range readRecords[hubEvent](t, file) {
		line, err := json.Marshal(map[string]any{
			"id": r.ID, "event_type": r.Type, "user_id": r.Actor, "created_at": r.Dt, "source": "github", "metadata": map[string]string{"repo": r.Repo},
		})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	for i, chunk := range slices.Collect(slices.Chunk(lines, 5000)) {
		switch i {
		case 1:
			d.stop()
			d.start()
		case 3:
			d.kill()
			d.start()
		}
		d.post(chunk...)
	}
	second := d.figures(1)
	if got := second.Ledger.All; got.Duplicates != tr.Events || got.Accepted != 2*tr.Events {
		t.Errorf("sent again: %+v, want %d duplicates", got, tr.Events)
	}
	second.Ledger = f.Ledger
	same(t, "sent again", second, f)

	d.stop()
	d.dropDatabase()
	d.start()
	rebuilt := d.figures(1)
	if got := rebuilt.Ledger.All; got.Duplicates != tr.Events {
		t.Errorf("rebuilt: %+v, want %d duplicates", got, tr.Events)
	}
	rebuilt.Ledger = f.Ledger
	same(t, "rebuilt", rebuilt, f)
}

// aiderEvent is a record of aider's analytics log.
type aiderEvent struct {
	Event      string
	Properties map[string]any
	UserID     *string `json:"user_id"`
	Time       int64
}

const (
	aiderFile     = "llm_usage/aider_analytics_2024-08_2025-04.jsonl.gz"
	aiderJQ       = `{event_type: .event, user_id, created_at: .time, source: "aider", metadata: (.properties + {model: .properties.main_model})}`
	aiderNobody   = "nobody"
	maxValueBytes = 8 << 10
)

// aiderNow is on the day behind the last event.
func aiderNow() time.Time { return time.Date(2025, 4, 26, 12, 0, 0, 0, time.UTC) }

// aiderTruth takes the events with a value that is too long out of the truth, and puts those without a user under a name.
func aiderTruth(t *testing.T, file string) (tr *truth, oversized int) {
	t.Helper()
	tr = readTruth(t, file)
	if tr.UsersPerN[fmt.Sprint(tr.WithoutUser)] != 0 {
		t.Fatal("another user has as many events as nobody")
	}
	records := readRecords[aiderEvent](t, file)
	tr.Users++
	tr.UsersPerN = nil // computed anew below
	users := map[string]uint64{}
	for _, r := range records {
		user := aiderNobody
		if r.UserID != nil {
			user = *r.UserID
		}
		if !slices.ContainsFunc(slices.Collect(maps.Values(r.Properties)), func(v any) bool { return len(fmt.Sprint(v)) > maxValueBytes }) {
			users[user]++
			continue
		}
		oversized++
		day := time.Unix(r.Time, 0).UTC().Format(time.DateOnly)
		tr.Events--
		tr.Types[r.Event]--
		tr.Daily[day][r.Event]--
		maps.DeleteFunc(tr.Daily[day], func(_ string, n uint64) bool { return n == 0 })
		if byType := tr.BusiestByType[user]; byType != nil {
			byType[r.Event]--
		}
		for i := range tr.BusiestUsers {
			if tr.BusiestUsers[i].User == user {
				tr.BusiestUsers[i].Events--
			}
		}
	}
	tr.UsersPerN = map[string]int{}
	for _, n := range users {
		tr.UsersPerN[fmt.Sprint(n)]++
	}
	return tr, oversized
}

func TestImportAider(t *testing.T) { onEachStore(t, testImportAider) }

func testImportAider(t *testing.T, s testStore) {
	file := realData(t, aiderFile)
	tr, oversized := aiderTruth(t, file)
	const days = 300
	d := s.instance(t, s.retention(days, aiderNow()))
	d.clockAt(aiderNow())
	d.start()
	rejects := filepath.Join(t.TempDir(), "rejects.ndjson")
	report := d.importFile(1, "--user="+aiderNobody, "--jq="+aiderJQ, "--rejects="+rejects, file)
	if report.Accepted != int(tr.Events) || report.Refused != oversized || report.Records != report.Accepted+report.Refused {
		t.Errorf("report %+v, want %d accepted and %d refused", report, tr.Events, oversized)
	}
	checkRejects(t, rejects, oversized)
	f := d.figures(days)
	checkTotals(t, f, tr)
	if diff := cmp.Diff(notEmpty(tr.Daily), notEmpty(f.Daily)); diff != "" {
		t.Errorf("daily (-want +got):\n%.2000s", diff)
	}
	if len(f.Daily) != days {
		t.Errorf("daily has %d days, want %d", len(f.Daily), days)
	}
	if got := f.Users[aiderNobody]; got != tr.WithoutUser {
		t.Errorf("%d events without a user, want %d", got, tr.WithoutUser)
	}
	checkTokens(t, d, days, tr)
	checkMetadata(t, d)
}

// checkRejects expects a line about each event that was too large, with the place of the fault.
func checkRejects(t *testing.T, path string, n int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	if len(lines) != n {
		t.Errorf("%d lines of rejects, want %d", len(lines), n)
	}
	for _, line := range lines {
		var r struct {
			Line          int
			Code, Pointer string
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		if r.Line == 0 || r.Code != "too_long" || r.Pointer != "/metadata/exception" {
			t.Errorf("reject %+v, want too_long at /metadata/exception of a line", r)
		}
	}
}

// checkTokens compares the LLM tokens by user and by model.
func checkTokens(t *testing.T, d *instance, days int, tr *truth) {
	t.Helper()
	var byUser, byModel map[string]uint64
	d.getJSON(fmt.Sprintf("/api/v1/usage/llm-tokens?days=%d", days), &byUser)
	d.getJSON(fmt.Sprintf("/api/v1/usage/llm-tokens?days=%d&by=reference", days), &byModel)
	sum := uint64(0)
	for _, n := range byUser {
		sum += n
	}
	if sum != tr.Tokens.Total {
		t.Errorf("%d tokens by user, want %d", sum, tr.Tokens.Total)
	}
	want := map[string]uint64{}
	for model, tokens := range tr.TokensPerModel {
		want[model] = tokens.Total
	}
	maps.DeleteFunc(want, func(_ string, n uint64) bool { return n == 0 })
	maps.DeleteFunc(byModel, func(_ string, n uint64) bool { return n == 0 })
	if diff := cmp.Diff(want, byModel); diff != "" {
		t.Errorf("tokens by model (-want +got):\n%.2000s", diff)
	}
}

// checkMetadata expects numbers and booleans as strings in the journal.
func checkMetadata(t *testing.T, d *instance) {
	t.Helper()
	r := d.usagectl("journal", "cat", d.dir)
	for _, want := range []string{`"prompt_tokens":"638"`, `"cost":"0.0001107"`, `"machine":"x86_64"`} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the journal has no %s", want)
		}
	}
	if lines := strings.Count(r.stdout, "\n"); r.code != 0 || uint64(lines) != d.ledger().All.Accepted {
		t.Errorf("journal cat: exit code %d, %d lines, want %d", r.code, lines, d.ledger().All.Accepted)
	}
}

// TestImportInterrupted stops an import in its middle, with an answer on the way that never arrives, and repeats it.
func TestImportInterrupted(t *testing.T) {
	t.Parallel()
	file := realData(t, wikiFile)
	tr := readTruth(t, file)
	for _, tc := range []struct {
		name   string
		signal syscall.Signal
	}{
		{"it resumes after SIGINT", syscall.SIGINT},
		{"it resumes after SIGKILL", syscall.SIGKILL},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newInstance(t)
			d.clockAt(time.Date(2015, 9, 13, 12, 0, 0, 0, time.UTC))
			d.start()
			gate := startGate(t, d, 17)
			cmd := d.usagectlCommand("import", "--jq="+wikiJQ, "--url="+gate.url, d.adminToken(), file)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			p := spawn(t, cmd)
			<-gate.reached
			if err := cmd.Process.Signal(tc.signal); err != nil {
				t.Fatal(err)
			}
			<-p.exited
			if tc.signal == syscall.SIGINT && (p.code != 1 || !strings.Contains(stderr.String(), "the same command goes on from there")) {
				t.Errorf("exit code %d, want 1 and how to go on: %s", p.code, &stderr)
			}
			part := d.settle().All.Accepted
			if part == 0 || part >= tr.Events {
				t.Errorf("%d events were accepted before the signal, want some of %d", part, tr.Events)
			}
			if report := d.importFile(0, "--jq="+wikiJQ, file); report.Accepted != int(tr.Events) {
				t.Errorf("repeated: accepted %d, want %d", report.Accepted, tr.Events)
			}
			f := d.figures(7)
			checkTotals(t, f, tr)
			if got := f.Ledger.All.Duplicates; got != part {
				t.Errorf("%d duplicates, want the %d of the first part", got, part)
			}
		})
	}
}

// gate stands between a tool and the daemon. It passes n posts on and holds back the answer to the last of them, and all
// further requests.
type gate struct {
	url     string
	reached chan struct{}
}

func startGate(t *testing.T, d *instance, n int64) *gate {
	t.Helper()
	g := &gate{reached: make(chan struct{})}
	var posts atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		number := int64(0)
		if r.Method == http.MethodPost {
			number = posts.Add(1)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || number > n {
			<-r.Context().Done()
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, d.url+r.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header = r.Header.Clone()
		resp, err := d.http.Do(req)
		if err != nil {
			return // the tool has gone
		}
		defer resp.Body.Close()
		if number == n {
			close(g.reached)
			<-r.Context().Done()
			return
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(server.Close)
	g.url = server.URL
	return g
}

// TestImportThroughRestarts kills and restarts the daemon under an import, which notices nothing.
func TestImportThroughRestarts(t *testing.T) {
	t.Parallel()
	file := realData(t, wikiFile)
	tr := readTruth(t, file)
	d := newInstance(t)
	d.clockAt(time.Date(2015, 9, 13, 12, 0, 0, 0, time.UTC))
	d.start()
	address := startForwarder(t, d)
	cmd := d.usagectlCommand("import", "--jq="+wikiJQ, "--batch=100", "--output=json", "--url="+address.server.URL, d.adminToken(), file)
	p := spawn(t, cmd)
	for restart := range 3 {
		eventually(t, "progress", func() error {
			if n := address.posts.Load(); n < int64(100*(restart+1)) {
				return fmt.Errorf("%d posts", n)
			}
			return nil
		})
		d.kill()
		d.start()
		url := d.url
		address.target.Store(&url)
	}
	<-p.exited
	if p.code != 0 {
		t.Errorf("import: exit code %d, want 0", p.code)
	}
	f := d.figures(7)
	checkTotals(t, f, tr)
	if diff := cmp.Diff(wikiSummary(t, file), f.Summary); diff != "" {
		t.Errorf("summary (-want +got):\n%.2000s", diff)
	}
}

// forwarder is a fixed address of a daemon that gets another one with each start. It answers 502 where none is there.
type forwarder struct {
	server *httptest.Server
	target atomic.Pointer[string]
	posts  atomic.Int64
}

func startForwarder(t *testing.T, d *instance) *forwarder {
	t.Helper()
	f := &forwarder{}
	url := d.url
	f.target.Store(&url)
	client := &http.Client{Transport: &http.Transport{}}
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), r.Method, *f.target.Load()+r.URL.RequestURI(), r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header = r.Header.Clone()
		if r.Method == http.MethodPost {
			f.posts.Add(1)
		}
		resp, err := client.Do(req)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(func() {
		f.server.Close()
		client.CloseIdleConnections()
	})
	return f
}
