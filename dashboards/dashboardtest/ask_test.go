package dashboardtest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestCount tells answers without a value from those with one, and errors from both.
func TestCount(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]int{
		`[]`:                                   0,
		`[{"metric":{},"value":[1,"NaN"]}]`:    0,
		`[{"metric":{},"value":[1,"0"]}]`:      1,
		`[{"values":[[1,"NaN"],[2,"+Inf"]]}]`:  1,
		`[{"values":[[1,"1"]]},{"values":[]}]`: 1,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer v" {
				t.Error("no token was sent")
			}
			fmt.Fprintf(w, `{"status":"success","data":{"result":%s}}`, answer)
		}))
		got, err := API{URL: server.URL, Token: "v"}.Count("up")
		if err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", answer, got, err, want)
		}
		server.Close()
	}
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "parse error", http.StatusBadRequest) }))
	defer refusing.Close()
	if _, err := (API{URL: refusing.URL}).Count("("); err == nil {
		t.Error("an error is no error")
	}
}

func TestExpand(t *testing.T) {
	t.Parallel()
	const expr = `rate(a{x="$window",y="${win}",z="$win"}[$__rate_interval]) + b[$__range] offset $__interval`
	got := expand(expr, map[string]string{"win": "1", "window": "2"}, 7*24*time.Hour, 10*time.Minute)
	if want := `rate(a{x="2",y="1",z="1"}[10m15s]) + b[1w] offset 10m`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, test := range []struct{ span, least, want time.Duration }{
		{6 * time.Hour, 15 * time.Second, time.Minute}, {7 * 24 * time.Hour, time.Minute, 20 * time.Minute}, {time.Hour, 24 * time.Hour, 24 * time.Hour},
	} {
		if got := interval(test.span, 600, test.least); got != test.want {
			t.Errorf("%s in 600 points of at least %s: %s, want %s", test.span, test.least, got, test.want)
		}
	}
}
