package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"usaged/dashboards"
	"usaged/dashboards/dashboardtest"
)

// pricePanel returns the queries of the panel of prices, for a reader of the last hour who typed a price for what has none.
func pricePanel(t *testing.T, typed string) map[string]string {
	t.Helper()
	queries := map[string]string{}
	for _, page := range dashboardtest.Read(t, dashboards.FS) {
		for _, panel := range page.All() {
			if !strings.HasPrefix(panel.Title, "Prices per million tokens") {
				continue
			}
			for _, target := range panel.Targets {
				queries[target.RefID] = strings.NewReplacer("$__range", "1h", "$default_price", typed).Replace(target.Expr)
			}
		}
	}
	if len(queries) != 5 {
		t.Fatalf("the panel of prices asks %v", queries)
	}
	return queries
}

// TestPrices edits the table of prices while the daemon runs, and asks what the dashboard shows: tokens without a price cost
// nothing that is known, which is not 0.
func TestPrices(t *testing.T) {
	t.Parallel()
	table := filepath.Join(t.TempDir(), "prices.csv")
	write := func(text string) { rewriteFile(t, table, text) }
	write("model,prompt\nlarge,cheap\n")
	flag := "--prices.file=" + table
	checkRefusedFile(t, flag, table+`:2: prompt: "cheap" is no price`)
	write("model,prompt,completion\nlarge,3,15\n")
	d := newInstance(t, flag, prometheusFile(t, fastScrapes), fastRules(t, "usage.yml"))
	d.start()
	used := func(n int) {
		for _, model := range []string{"large", "new"} {
			d.post(fmt.Sprintf(`{"event_type":"a","user_id":"u","metadata":{"model":%q,"prompt_tokens":"%d","completion_tokens":"%d"}}`, model, 1000*n, 100*n))
		}
	}
	used(1)
	d.becomes(`count(count_over_time(usage_llm_tokens_total[1m]) > 2)`, "6") // also of other tokens, of which there are none
	used(2)
	d.becomes(`count(increase(usage_llm_tokens_total[1m]) > 0)`, "4")
	d.becomes(`count(usage:llm_tokens:rate5m)`, "6")
	panel := pricePanel(t, "0")
	d.becomes(`count((`+panel["A"]+`) == 3 and on (model) (`+panel["B"]+`) == 15)`, "1")
	d.becomes(`count(`+panel["C"]+`)`, "2")
	d.becomes(`count(`+panel["D"]+`)`, "1")
	d.becomes(`sum(`+panel["E"]+`)`, "1") // all of the one, nothing of the other
	d.becomes(`count(`+pricePanel(t, "7")["D"]+`)`, "2")

	write("model,prompt,completion\nlarge,3,15\nnew,one,2\n")
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusInternalServerError || !strings.Contains(string(a.body), "prices.csv:3: ") {
		t.Errorf("reload of a wrong table: status %d, %s; want 500, the file and the line", a.status, a.body)
	}
	write("model,prompt,completion\nlarge,3,15\nnew,1,2\n")
	d.signal(syscall.SIGHUP)
	d.becomes(`count(`+panel["D"]+`)`, "2")
	d.becomes(`sum(`+panel["E"]+`)`, "0")
	// A thousand tokens at 1 and a hundred at 2; the increases of both are estimates alike.
	d.becomes(`count(abs((`+panel["D"]+`) * 1e6 / (`+panel["C"]+`) - 1.0909) < 0.01 and on (model) (`+panel["A"]+`) == 1)`, "1")
}
