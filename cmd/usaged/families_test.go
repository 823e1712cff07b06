package main

import (
	"bytes"
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

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"usaged/aggregator/store/redis/redistest"
)

// usage reads the families of usage but the gauges: family → the values of the labels, in the order of their names → value.
// What is 0 is left out.
func (d *instance) usage() map[string]map[string]uint64 {
	d.tb.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(d.get("/metrics", "")))
	if err != nil {
		d.tb.Fatal(err)
	}
	usage := map[string]map[string]uint64{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			if !strings.HasPrefix(name, "usage_") || m.GetCounter().GetValue() == 0 {
				continue
			}
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if usage[name] == nil {
				usage[name] = map[string]uint64{}
			}
			usage[name][strings.Join(values, " ")] = uint64(m.GetCounter().GetValue())
		}
	}
	return usage
}

// aiderFamiliesJQ leaves out the one value that can be too long, so that every event is accepted.
const aiderFamiliesJQ = `{event_type: .event, user_id, created_at: .time, source: "aider", metadata: ((.properties | del(.exception)) +
	{model: .properties.main_model, outcome: {"message_send": "success", "message_send_exception": "failure"}[.event]})}`

// TestFamiliesOfAider compares all families with what was computed by other means, and again when the process was killed and
// everything has been counted once more.
func TestFamiliesOfAider(t *testing.T) { onEachStore(t, testFamiliesOfAider) }

func testFamiliesOfAider(t *testing.T, s testStore) {
	file := realData(t, aiderFile)
	want := aiderFamilies(t, file)
	d := s.instance(t, s.retention(300, aiderNow()))
	d.clockAt(aiderNow())
	d.start()
	d.importFile(0, "--user="+aiderNobody, "--jq="+aiderFamiliesJQ, file)
	d.settle()
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, d.usage()); diff != "" {
			t.Errorf("%s (-want +got):\n%.3000s", when, diff)
		}
	}
	check("imported")
	d.kill()
	d.dropDatabase()
	d.start()
	d.settle()
	check("killed and rebuilt")
	d.stop()
	if err := os.Remove(filepath.Join(d.dir, "counters.json")); err != nil { // so that no high-water mark helps
		t.Fatal(err)
	}
	d.dropDatabase()
	d.start()
	d.settle()
	check("rebuilt without high-water marks")
}

// aiderFamilies is the truth about aider's log.
func aiderFamilies(t *testing.T, file string) map[string]map[string]uint64 {
	t.Helper()
	var tr struct {
		Events uint64            `json:"total_events"`
		Types  map[string]uint64 `json:"events_per_type"`
		Tokens map[string]uint64 `json:"tokens_total"`
		Models map[string]struct {
			Prompt     uint64 `json:"prompt_tokens"`
			Completion uint64 `json:"completion_tokens"`
			Total      uint64 `json:"total_tokens"`
		} `json:"tokens_per_main_model"`
		Failures map[string]uint64
	}
	readJSON(t, strings.TrimSuffix(file, ".gz")+".expected.json", &tr)
	tokens := map[string]uint64{}
	var prompt, completion, total uint64
	for name, m := range tr.Models {
		tokens["prompt "+name], tokens["completion "+name] = m.Prompt, m.Completion
		tokens["other "+name] = m.Total - m.Prompt - m.Completion
		prompt, completion, total = prompt+m.Prompt, completion+m.Completion, total+m.Total
	}
	maps.DeleteFunc(tokens, func(_ string, n uint64) bool { return n == 0 })
	if prompt != 63_232_331 || completion != 2_529_283 || total != 65_761_614 || tr.Failures["message_send_exception"] != 52 {
		t.Fatalf("the truth has %d, %d and %d tokens and %v failures", prompt, completion, total, tr.Failures)
	}
	outcomes := map[string]uint64{
		"message_send success":           tr.Tokens["message_send_events"],
		"message_send_exception failure": tr.Failures["message_send_exception"],
	}
	return map[string]map[string]uint64{
		"usage_events_total":              tr.Types,
		"usage_late_events_total":         tr.Types, // all are older than an hour
		"usage_source_events_total":       {"aider": tr.Events},
		"usage_llm_tokens_total":          tokens,
		"usage_event_outcomes_total":      outcomes,
		"usage_late_event_outcomes_total": outcomes,
	}
}

func readJSON(t *testing.T, path string, to any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, to); err != nil {
		t.Fatal(err)
	}
}

// TestRowsOfExecutedQueries imports queries that were run, with the number of rows that each returned.
func TestRowsOfExecutedQueries(t *testing.T) { onEachStore(t, testRowsOfExecutedQueries) }

func testRowsOfExecutedQueries(t *testing.T, s testStore) {
	file := realData(t, "sql_execution/sqleval_executed.csv.gz")
	var tr struct {
		Executions uint64
		Rows       uint64 `json:"rows_total"`
	}
	readJSON(t, strings.TrimSuffix(file, ".gz")+".expected.json", &tr)
	if tr.Executions != 314 || tr.Rows != 1181 {
		t.Fatalf("the truth is %+v", tr)
	}
	d := s.instance(t)
	d.start()
	d.importFile(0, `--jq={event_type: "sql_execution", user_id: .db_name, source: .source_file,
		metadata: {question, rows, outcome: (if .status == "ok" then "success" else "failure" end)}}`, file)
	d.settle()
	usage := d.usage()
	if diff := cmp.Diff(map[string]uint64{"": tr.Rows}, usage["usage_sql_rows_total"]); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]uint64{"sql_execution success": tr.Executions}, usage["usage_event_outcomes_total"]); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	sources := uint64(0)
	for _, n := range usage["usage_source_events_total"] {
		sources += n
	}
	if sources != tr.Executions {
		t.Errorf("%d events by source, want %d", sources, tr.Executions)
	}
}

// TestGaugesOfUsage expects the users of each window, and the time of the last event also after the process was killed.
func TestGaugesOfUsage(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	d.clockAt(now)
	d.start()
	for user, age := range map[string]int{"ann": 0, "bob": 0, "cy": 1, "dee": 6, "eve": 7, "finn": 29} {
		d.post(fmt.Sprintf(`{"event_type":"chat","user_id":%q,"created_at":%q}`, user, now.AddDate(0, 0, -age).Format(time.RFC3339)))
	}
	d.settle()
	d.kill()
	d.start() // it counts at the start
	d.settle()
	eventually(t, "active users", func() error {
		got := d.gauge("usage_active_users")
		if want := map[string]float64{"1d": 2, "7d": 4, "30d": 6}; !maps.Equal(want, got) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
	last := d.gauge("usage_last_event_timestamp_seconds")
	if at := last["chat"]; len(last) != 1 || at < float64(now.Unix()) || at > float64(now.Add(time.Hour).Unix()) {
		t.Errorf("last events %v, want one of chat shortly after %d", last, now.Unix())
	}
}

// gauge reads a family with one label: value of the label → value.
func (d *instance) gauge(name string) map[string]float64 {
	d.tb.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(d.get("/metrics", "")))
	if err != nil {
		d.tb.Fatal(err)
	}
	values := map[string]float64{}
	for _, m := range families[name].GetMetric() {
		values[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
	}
	return values
}

// TestLabelsHaveRoomForSoMany sends more sources, models and policies than there are labels for, and expects the same
// families after a rebuild.
func TestLabelsHaveRoomForSoMany(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	var events []string
	for i := range 300 {
		events = append(events, fmt.Sprintf(`{"event_type":"type-%d","user_id":"u%d","source":"s%d","metadata":{"model":"m%d","prompt_tokens":"2"}}`, i, i%7, i, i),
			fmt.Sprintf(`{"event_type":"sql_generation","user_id":"u%d","metadata":{"policy_filters":"p%d, p%d,p0"}}`, i%7, i, i))
	}
	d.post(events...)
	d.settle()
	before := d.usage()
	want := map[string]int{ // label values, and what is under __other__
		"usage_events_total": 196 + 1 + 1, "usage_source_events_total": 100 + 2, "usage_llm_tokens_total": 100 + 1, "usage_policy_hits_total": 100 + 1,
	}
	for name, n := range want {
		if got := len(before[name]); got != n {
			t.Errorf("%s has %d series, want %d", name, got, n)
		}
	}
	other := map[string]uint64{
		"usage_events_total": before["usage_events_total"]["__other__"], "usage_source_events_total": before["usage_source_events_total"]["__other__"],
		"usage_llm_tokens_total": before["usage_llm_tokens_total"]["prompt __other__"] / 2, "usage_policy_hits_total": before["usage_policy_hits_total"]["__other__"],
	}
	text := string(d.get("/metrics", ""))
	for _, name := range slices.Sorted(maps.Keys(other)) {
		if line := fmt.Sprintf("\nusaged_label_overflow_total{metric=%q} %d\n", name, other[name]); other[name] == 0 || !strings.Contains(text, line) {
			t.Errorf("/metrics lacks %q", line)
		}
	}
	d.stop()
	d.dropDatabase()
	d.start()
	d.settle()
	if diff := cmp.Diff(before, d.usage()); diff != "" {
		t.Errorf("rebuilt (-before +after):\n%.2000s", diff)
	}
}

const projectMetric = projectMeter + `    metric:
      name: usage_tokens_by_project_total
      labels: [project_id, model]
`

// TestMetricOfAMeter counts what is accepted while a meter has a metric, neither less nor more where everything is counted
// again, in a Redis of 16 partitions.
func TestMetricOfAMeter(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	path := metersFile(t, "meters: []\n")
	d := newRedisInstance(t, server.URL(), "--redis.partitions=16", "--meters.file="+path)
	d.start()
	reload := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusOK {
			t.Fatalf("reload: status %d, %s", a.status, a.body)
		}
	}
	spend := func() {
		t.Helper()
		for i := range 20 {
			d.post(fmt.Sprintf(`{"event_type":"chat","user_id":"u%d","metadata":{"project_id":"p%d","total_tokens":"10"}}`, i, i%2))
		}
	}
	check := func(when string, want map[string]uint64) {
		t.Helper()
		d.settle()
		if diff := cmp.Diff(want, d.usage()["usage_tokens_by_project_total"]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	spend() // before there is a metric
	check("without a metric", nil)
	reload(projectMetric)
	spend()
	check("with a metric", map[string]uint64{"unknown p0": 100, "unknown p1": 100})
	reload("meters: []\n")
	spend()
	check("taken away", nil)
	reload(projectMetric)
	spend()
	want := map[string]uint64{"unknown p0": 200, "unknown p1": 200}
	check("back again", want)
	server.Do("FLUSHALL")
	d.kill()
	if err := os.Remove(filepath.Join(d.dir, "counters.json")); err != nil { // so that no high-water mark helps
		t.Fatal(err)
	}
	d.start()
	check("counted again", want)
	reload(strings.Replace(projectMetric, ", model", "", 1))
	spend()
	check("with other labels", map[string]uint64{"p0": 100, "p1": 100})
}
