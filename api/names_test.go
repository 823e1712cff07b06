package api_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator"
	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/rollup"
	"usaged/aggregator/store/sqlite"
	"usaged/api"
	"usaged/api/quota"
)

// daemon is an API over a data directory, with a store in a file of its own.
type realDaemon struct {
	*rig
	agg  *aggregator.Aggregator
	stop func()
}

func startReal(t *testing.T, dir, database string) *realDaemon {
	t.Helper()
	now := func() time.Time { return noon }
	db, err := sqlite.Open(context.Background(), sqlite.Config{Path: database})
	if err != nil {
		t.Fatal(err)
	}
	agg, err := aggregator.Open(aggregator.Config{Dir: dir, Store: db, Meters: meter.Builtin(), Retention: retention, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	names, err := quota.OpenNames(filepath.Join(dir, "names.json"), agg.Labels())
	if err != nil {
		t.Fatal(err)
	}
	d := &realDaemon{agg: agg, stop: func() {
		_ = agg.Close()
		_ = db.Close()
	}}
	d.rig = newRig(t, func(c *api.Config) {
		c.Accepter, c.Ledger, c.Ready, c.Names = agg, agg, agg.Ready, names
		c.Reader = rollup.NewReader(rollup.Config{Store: db, Meters: agg.Meters, Retention: retention, Now: now})
	})
	return d
}

// answers are all that is counted, by what was asked.
func (d *realDaemon) answers(t *testing.T) map[string]string {
	t.Helper()
	d.settle(t)
	all := map[string]string{}
	for _, path := range []string{"summary", "daily?days=1", "users", "queries", "llm-tokens?by=reference", "dashboards"} {
		rec := d.call("GET", "/api/v1/usage/"+path, "admin", "")
		if rec.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
		}
		all[path] = rec.Body.String()
	}
	totals, known := d.agg.Totals()
	if !known {
		t.Fatal("the totals are not known")
	}
	for series, n := range totals {
		all[fmt.Sprint(series)] = fmt.Sprint(n)
	}
	return all
}

// post posts a batch of n events, each of which event makes of its number.
func (d *realDaemon) post(t *testing.T, role string, n int, event string) {
	t.Helper()
	var list []string
	for i := range n {
		list = append(list, strings.ReplaceAll(event, "#", fmt.Sprint(i)))
	}
	if rec := d.call("POST", events, role, "["+strings.Join(list, ",")+"]"); rec.Code != http.StatusAccepted {
		t.Fatalf("%s: %d %s", event, rec.Code, rec.Body)
	}
}

// TestOneTokenCannotTakeAllNames has a token with the role user invent types, sources, models, policies and questions, more than are
// counted by name. What others send then is counted under its own names; a restart gives the token no second quota; and what is counted again
// from the journal is the same.
func TestOneTokenCannotTakeAllNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startReal(t, dir, filepath.Join(dir, "usage.db"))
	invent := func(d *realDaemon, prefix string) {
		d.post(t, "user", 1_000, `{"event_type":"`+prefix+`z#"}`)
		d.post(t, "user", 200, `{"event_type":"sql_generation","source":"`+prefix+`s#","metadata":{"model":"`+prefix+`m#","total_tokens":"1","policy_filters":"`+prefix+`p#"}}`)
		d.post(t, "user", 2_000, `{"event_type":"z1","metadata":{"model":"`+prefix+`mm#","total_tokens":"1"}}`)
		d.post(t, "user", 2_000, `{"event_type":"sql_generation","metadata":{"question":"`+prefix+`q#"}}`)
	}
	invent(d, "")
	d.settle(t)
	for _, known := range append([]string{"chat"}, event.KnownTypes...) {
		d.post(t, "producer", 1, `{"event_type":"`+known+`","user_id":"alice","source":"portal","metadata":{"question":"revenue by region",
			"model":"gpt-4o","prompt_tokens":"100","outcome":"success","policy_filters":"gdpr","dashboard_id":"d1"}}`)
	}
	before := d.answers(t)
	for _, want := range []struct{ of, has string }{
		{"summary", `"sql_execution":{"alice":1}`}, {"summary", `"chat":{"alice":1}`},
		{"queries", `"revenue by region":2`}, {"llm-tokens?by=reference", `"gpt-4o":500`}, {"dashboards", `"d1":1`},
		{"{events sql_execution }", "1"}, {"{events chat }", "1"}, {"{events __other__ }", "980"},
		{"{sources portal }", "5"}, {"{tokens gpt-4o prompt}", "500"}, {"{policies gdpr }", "1"},
	} {
		if !strings.Contains(before[want.of], want.has) {
			t.Errorf("%s is %.300s, want %s", want.of, before[want.of], want.has)
		}
	}
	over := `usaged_names_over_quota_total{token="the-user",quota="new_types"} `
	if text := d.metricsText(); !strings.Contains(text, over+"980\n") {
		t.Errorf("metrics lack %s980:\n%s", over, text)
	}
	d.stop()

	d = startReal(t, dir, filepath.Join(dir, "another.db"))
	if diff := cmp.Diff(before, d.answers(t)); diff != "" {
		t.Errorf("counted again from the journal:\n%s", diff)
	}
	invent(d, "again ")
	if got := d.answers(t); strings.Contains(got["summary"], "again z") || strings.Contains(got["queries"], "again q499") {
		t.Errorf("after a restart there is room for new names: %.300s", got["summary"])
	}
	if room := d.metricsText(); !strings.Contains(room, over+"1000\n") {
		t.Errorf("metrics lack %s1000:\n%s", over, room)
	}
	d.stop()
}

// TestProducersNameWhatTheyLike has a producer invent types.
func TestProducersNameWhatTheyLike(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startReal(t, dir, filepath.Join(dir, "usage.db"))
	defer d.stop()
	d.post(t, "producer", 150, `{"event_type":"z#"}`)
	d.settle(t)
	d.post(t, "user", 1, `{"event_type":"new"}`)
	d.post(t, "user", 1, `{"event_type":"z7"}`)
	got := d.answers(t)
	if !strings.Contains(got["summary"], `"z149":`) || strings.Contains(got["summary"], `"new":`) || !strings.Contains(got["summary"], `"alice":1`) {
		t.Errorf("half of the labels are taken, so that users may add none: %.2000s", got["summary"])
	}
}
