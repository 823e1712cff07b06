package embedded_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
)

// manager stands for an Alertmanager.
type manager struct {
	mu     sync.Mutex
	asked  int
	alerts map[string]bool // that came, by name
	answer func(asked, alerts int) int
	URL    string
}

func newManager(t *testing.T, answer func(asked, alerts int) int) *manager {
	t.Helper()
	m := &manager{answer: answer, alerts: map[string]bool{}}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.URL = server.URL
	return m
}

func (m *manager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var list []struct{ Labels map[string]string }
	err := json.NewDecoder(r.Body).Decode(&list)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	status := m.answer(m.asked, len(list))
	if status == http.StatusOK && err == nil && r.Method == http.MethodPost {
		for _, a := range list {
			m.alerts[a.Labels["alertname"]] = true
		}
	}
	w.Header().Set("Location", "/login")
	w.WriteHeader(status)
}

func (m *manager) state() (asked, alerts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked, len(m.alerts)
}

// TestWhatAnAlertmanagerAnswers sends three alerts to one that wants smaller requests, one that puts them off, and one that redirects to
// a page which says yes to everything.
func TestWhatAnAlertmanagerAnswers(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("groups:\n- name: a\n  rules:\n")
	for _, name := range []string{"A", "B", "C"} {
		fmt.Fprintf(&text, "  - {alert: %s, expr: vector(1)}\n", name)
	}
	for name, tc := range map[string]struct {
		answer func(asked, alerts int) int
		alerts int
		sent   bool
	}{
		"it takes one at a time": {func(_, alerts int) int {
			if alerts > 1 {
				return http.StatusRequestEntityTooLarge
			}
			return http.StatusOK
		}, 3, true},
		"it is locked": {func(asked, _ int) int {
			if asked <= 2 {
				return http.StatusLocked
			}
			return http.StatusOK
		}, 3, true},
		"it redirects": {func(asked, _ int) int {
			if asked == 1 {
				return http.StatusFound
			}
			return http.StatusSeeOther
		}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t, tc.answer)
			r := newRig(t, fast)
			r.cfg.AlertmanagerURLs = []string{m.URL}
			r.cfg.Rules = fstest.MapFS{"a.yml": {Data: []byte(text.String())}}
			r.start()
			eventually(t, "alerts", func() error {
				if asked, alerts := m.state(); asked == 0 || alerts != tc.alerts {
					return fmt.Errorf("%d alerts in %d requests", alerts, asked)
				}
				return nil
			})
			for total, want := range map[string]bool{"prometheus_notifications_sent_total": tc.sent, "prometheus_notifications_errors_total": !tc.sent} {
				eventually(t, total, func() error {
					if n := r.counter(total); n > 0 != want {
						return fmt.Errorf("it is %v", n)
					}
					return nil
				})
			}
		})
	}
}
