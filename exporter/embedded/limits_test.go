package embedded_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// doubling nests label_replace, each of which makes a label eight times as long.
func doubling(replacement string, times int) string {
	expr := `label_replace(vector(1),"a","xxxxxxxxxx","","")`
	for range times {
		expr = fmt.Sprintf(`label_replace(%s,"a",%s,"a","(.*)")`, expr, replacement)
	}
	return "count(" + expr + ")"
}

// TestExpressionsHaveLimits asks what would take gigabytes or minutes, in every place where an expression can stand, and what a dashboard
// asks.
func TestExpressionsHaveLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t, fast)
	r.start()
	const eight = `"$1$1$1$1$1$1$1$1"`
	widths := "vector(1)"
	for i := range 40 {
		widths = fmt.Sprintf(`label_replace(%s,"l%d","%s","","")`, widths, i, strings.Repeat("x", 1000))
	}
	types := strings.Repeat("type_with_a_rather_long_name|", 600) + "x"
	for _, tc := range []struct {
		name, expr string
		want       int
	}{
		{"labels doubled", doubling(eight, 8), http.StatusBadRequest},
		{"labels doubled in brackets", doubling("("+eight+")", 8), http.StatusBadRequest},
		{"labels joined with themselves", strings.ReplaceAll(doubling(eight, 1), "count(", `count(label_join(label_join(label_join(`) +
			strings.Repeat(`,"a","",`+strings.Repeat(`"a",`, 30)+`"a")`, 3) + ")", http.StatusBadRequest},
		{"many long labels", "count(" + widths + ")", http.StatusBadRequest},
		{"many terms", "1" + strings.Repeat("+1", 50_000), http.StatusBadRequest},
		{"many signs", strings.Repeat("-", 100_000) + "1", http.StatusBadRequest},
		{"deep brackets", strings.Repeat("(", 20_000) + "1" + strings.Repeat(")", 20_000), http.StatusBadRequest},
		{"a pattern that grows", `count({__name__=~"((a{100}){10}){10}"})`, http.StatusBadRequest},
		{"many patterns that grow", `count({__name__=~"` + strings.Repeat("[ab]{1000}", 200) + `"})`, http.StatusBadRequest},
		{"too many bytes", `"` + strings.Repeat("x", 300_000) + `"`, http.StatusBadRequest},
		{"labels doubled a little", doubling(eight, 1), http.StatusOK},
		{"a long pattern", `count({event_type=~"` + types + `"})`, http.StatusOK},
		{"a short pattern", `count({__name__=~"(.*a){20}.*|(.*e){25}.*"})`, http.StatusOK},
		{"many sums", "1" + strings.Repeat("+1", 1000), http.StatusOK},
		{"what is no expression", "1 +", http.StatusBadRequest},
	} {
		for _, path := range []string{"query", "query_range", "parse_query", "format_query", "series"} {
			form := url.Values{"query": {tc.expr}, "start": {"0"}, "end": {"60"}, "step": {"60"}}
			want := tc.want
			if path == "series" { // which takes selectors alone
				if form = (url.Values{"match[]": {tc.expr}}); want == http.StatusOK {
					continue
				}
			}
			if path == "query_range" && strings.HasPrefix(tc.expr, `"`) {
				continue
			}
			post := httptest.NewRequest(http.MethodPost, "/prometheus/api/v1/"+path, strings.NewReader(form.Encode()))
			post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			rec := httptest.NewRecorder()
			r.prom.ServeHTTP(rec, post)
			if rec.Code != want {
				t.Errorf("%s of %s: status %d, want %d: %.200s", path, tc.name, rec.Code, want, rec.Body)
			}
		}
	}
	if n := r.counterOf("usaged_promql_rejected_total", "limit"); n == 0 {
		t.Error("none was counted")
	}
}
