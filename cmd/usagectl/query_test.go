package main

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// promAnswers answers as Prometheus does: a wave of two series over whatever range is asked for, or the answer that an
// expression has here.
func promAnswers(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	answers := map[string]string{
		"1+1":     `{"resultType":"scalar","result":[1795435200.123,"2"]}`,
		"nothing": `{"resultType":"vector","result":[]}`,
		"up":      `{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"usaged"},"value":[1795435200,"1"]},{"metric":{},"value":[1795435200,"NaN"]}]}`,
		"h":       `{"resultType":"vector","result":[{"metric":{"__name__":"h"},"histogram":[1795435200,{"count":"1","sum":"2"}]}]}`,
		"many":    `{"resultType":"matrix","result":[` + strings.Repeat(`{"metric":{},"values":[[1795435200,"1"]]},`, 8) + `{"metric":{},"values":[[1795435200,"1"]]}]}`,
	}
	expr := r.FormValue("query")
	if expr == "up{" {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:4: parse error: unexpected end of input"}`)
		return
	}
	data, ok := answers[expr]
	if !ok {
		start, _ := strconv.ParseFloat(r.FormValue("start"), 64)
		end, _ := strconv.ParseFloat(r.FormValue("end"), 64)
		step, _ := strconv.ParseFloat(r.FormValue("step"), 64)
		series := make([]string, 2)
		for i := range series {
			var values []string
			for n, t := 0, start; t <= end && step > 0; n, t = n+1, t+step {
				if n < 20 || n > 30 { // there is a gap
					values = append(values, fmt.Sprintf(`[%.3f,"%g"]`, t, math.Round(100*math.Sin(float64(n)/10+float64(i)))))
				}
			}
			series[i] = fmt.Sprintf(`{"metric":{"event_type":"t%d"},"values":[%s]}`, i, strings.Join(values, ","))
		}
		data = `{"resultType":"matrix","result":[` + strings.Join(series, ",") + `]}`
	}
	fmt.Fprintf(w, `{"status":"success","data":%s}`, data)
}

func TestQuery(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /prometheus/api/v1/query", promAnswers)
	mux.HandleFunc("GET /prometheus/api/v1/query_range", promAnswers)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	tl := &tool{env: map[string]string{"USAGE_URL": server.URL, "USAGE_TOKEN": "x", "COLUMNS": "90"}}
	for _, tc := range []struct {
		golden string
		args   []string
	}{
		{"query.txt", []string{"up"}},
		{"query.json", []string{"up", "--output=json"}},
		{"query_scalar.txt", []string{"1+1"}},
		{"query_nothing.txt", []string{"nothing"}},
		{"query_range.txt", []string{"wave", "--range=6h", "--step=5m"}},
		{"query_graph.txt", []string{"wave", "--graph"}},
	} {
		if code := tl.run(t, append([]string{"query"}, tc.args...)...); code != exitOK {
			t.Errorf("%v: exit %d, want 0", tc.args, code)
		}
		golden(t, tc.golden, tl.stdout.Bytes())
	}
	for _, tc := range []struct {
		args string
		code int
		says string
	}{
		{"up{", exitFailure, `usagectl: invalid parameter "query": 1:4: parse error: unexpected end of input`},
		{"h", exitFailure, "histogram_quantile()"},
		{"many --graph", exitFailure, "topk(8, …)"},
		{"up --step=1m", exitUsage, "--step goes with --range"},
		{"up --graph --output=json", exitUsage, "choose one"},
		{"up --range=" + time.Hour.String()[:1], exitUsage, "usagectl --help"},
		{"", exitUsage, "promql"},
	} {
		if code := tl.run(t, append([]string{"query"}, strings.Fields(tc.args)...)...); code != tc.code || !strings.Contains(tl.stderr.String(), tc.says) {
			t.Errorf("query %s: exit %d, %s; want %d and %q", tc.args, code, &tl.stderr, tc.code, tc.says)
		}
	}
}
