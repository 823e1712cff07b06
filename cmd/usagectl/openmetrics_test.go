package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// knows is a daemon that has had its backfill, and knows two values of one metric.
func knows(t *testing.T, older, newer float64) string {
	t.Helper()
	const series = `{"__name__":"usage:activity:observed","event_type":"say \"hi\\\\\"","window":"1h"}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		q := r.URL.Query()
		of := q.Get("query") + q.Get("match[]")
		switch {
		case r.URL.Path == "/api/v1/usage/backfill":
			_, _ = io.WriteString(w, `{"phase":"idle","events":0,"done":0,"last":{"events":7}}`)
		case !strings.HasPrefix(of, "usage:activity:observed") || older == 0:
			_, _ = io.WriteString(w, `{"status":"success","data":[]}`)
		case r.URL.Path == promPath+"series":
			fmt.Fprintf(w, `{"status":"success","data":[%s]}`, series)
		case q.Get("end") == "1795448400.000" && q.Get("step") == "300" && of == `usage:activity:observed{event_type="say \"hi\\\\\"", window="1h"}`:
			fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":%s,"values":[[1795448100,"%v"],[1795448400,"%v"]]},
				{"metric":{"__name__":"usage:activity:observed","replica":"b"},"values":[[1795448400,"99"]]}]}}`, series, older, newer)
		default:
			t.Errorf("%s asks for %v", r.URL.Path, q)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestOpenMetrics(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "past.txt")
	until := "--until=2026-11-23T15:42:00Z"
	tl := &tool{env: map[string]string{"USAGE_TOKEN": fakeAdmin}}
	one, other := "--url="+knows(t, 3, 1.5), "--url="+knows(t, 4, 0.25)
	const text = "# TYPE usage:activity:observed gauge\n" +
		`usage:activity:observed{event_type="say \"hi\\\\\"",window="1h"} %v 1795448100` + "\n" +
		`usage:activity:observed{event_type="say \"hi\\\\\"",window="1h"} %v 1795448400` + "\n%s# EOF\n"
	const derived = "# TYPE usage:activity:expected gauge\n# TYPE usage:activity:excess gauge\n# TYPE usage:activity:restless gauge\n"
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{one}, fmt.Sprintf(text, 3, 1.5, derived)},
		{[]string{one, other}, fmt.Sprintf(text, 7, 1.75, "")},
	} {
		if code := tl.run(t, append(tc.args, "backfill", until, "--openmetrics="+file)...); code != exitOK ||
			tl.stdout.String() != "wrote 2 samples of 1 series up to 2026-11-23T15:40:00Z into "+file+"\n" {
			t.Errorf("exit %d: %s%s", code, &tl.stdout, &tl.stderr)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != tc.want {
			t.Errorf("%v: wrote\n%s%v, want\n%s", tc.args, got, err, tc.want)
		}
		if code := tl.run(t, append(tc.args, "backfill", until, "--openmetrics=-")...); code != exitOK || tl.stdout.String() != tc.want {
			t.Errorf("exit %d: %s%s, want\n%s", code, &tl.stdout, &tl.stderr, tc.want)
		}
	}
	if code := tl.run(t, "--url="+knows(t, 0, 0), "backfill", "--openmetrics="+file); code != exitFailure || !strings.Contains(tl.stderr.String(), "nothing is known of the past") {
		t.Errorf("of nothing: exit %d: %s", code, &tl.stderr)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("a file of nothing is left: %v", err)
	}
	for _, args := range [][]string{{one, other, "backfill"}, {one, "backfill", until}, {one, "backfill", "--openmetrics=x", "--until=then"}} {
		if code := tl.run(t, args...); code != exitUsage {
			t.Errorf("%v: exit %d, want %d: %s", args, code, exitUsage, &tl.stderr)
		}
	}
}
