package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const cacheMisses = `usaged_reader_cache_requests_total{result="miss"}`

var generatedAt = regexp.MustCompile(`"generated_at":"[^"]*"`)

// answers are the bytes of reads over 20 days, without when they were made.
func (d *instance) answers() string {
	d.tb.Helper()
	d.settle() // the answers say how much is pending
	var all strings.Builder
	for _, path := range []string{"summary?days=20", "users?days=20", "queries?days=7", "llm-tokens?days=20&by=reference", "daily?days=20"} {
		all.Write(generatedAt.ReplaceAll(d.get("/api/v1/usage/"+path, "admin"), nil))
	}
	return all.String()
}

// warmed waits until reads find all days in the cache, and returns them.
func (d *instance) warmed() (answers string) {
	d.tb.Helper()
	eventually(d.tb, "a cache that has all days", func() error {
		before := d.metric(cacheMisses)
		answers = d.answers()
		if n := d.metric(cacheMisses) - before; n > 0 {
			return fmt.Errorf("%v reads missed it", n)
		}
		return nil
	})
	return answers
}

// busyWeeks are events of 20 days, back from now.
func busyWeeks() (lines []string) {
	for day := range 20 {
		at := time.Now().AddDate(0, 0, -day).UTC().Format(time.RFC3339)
		for user := range 10 {
			lines = append(lines,
				fmt.Sprintf(`{"event_type":"sql_generation","user_id":"user %d","created_at":%q,"metadata":{"question":"%d?","model":"m","total_tokens":"7"}}`,
					user%(day+1), at, day+user),
				fmt.Sprintf(`{"event_type":"dashboard_publish","user_id":"user %d","created_at":%q}`, user, at))
		}
	}
	return lines
}

// put saves the state of the store, and returns what puts the store back to it. The daemon is stopped at both.
func (s testStore) put(t testing.TB, d *instance) (back func()) {
	t.Helper()
	if s.redis != nil {
		s.redis.Do("SAVE")
		return s.redis.Restart // which reads what was saved
	}
	path := filepath.Join(d.dir, "usage.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCacheSurvivesRestart stops daemons whose cache is warm, does something to the store or the file, and expects the next
// one to answer like one that has no file.
func TestCacheSurvivesRestart(t *testing.T) {
	onEachStore(t, func(t *testing.T, s testStore) {
		d := s.instance(t, "--prometheus.enabled=false")
		file := filepath.Join(d.dir, "days.cache")
		late := func() {
			d.post(fmt.Sprintf(`{"event_type":"sql_generation","user_id":"late","created_at":%q}`,
				time.Now().AddDate(0, 0, -12).UTC().Format(time.RFC3339)))
		}
		d.start()
		d.post(busyWeeks()...)
		want := d.warmed()
		d.stop()

		d.start()
		if got := d.answers(); got != want {
			t.Errorf("after a restart:\n%s\nbefore:\n%s", got, want)
		}
		if n := d.metric(cacheMisses); n != 0 {
			t.Errorf("after a restart %v reads missed the cache, want none", n)
		}
		late()
		if d.answers() == want {
			t.Error("a late event does not show")
		}
		want = d.warmed()
		d.stop()

		putBack := s.put(t, d)
		var kept []byte
		for _, tc := range []struct {
			name string
			do   func()
		}{
			{"the store is empty", d.dropDatabase},
			{"the store is as it was before a late event", func() {
				d.start()
				late()
				want = d.warmed()
				d.stop()
				putBack()
			}},
			{"the file is older than a late event", func() {
				kept = mustRead(t, file)
				d.start()
				late()
				want = d.warmed()
				d.kill()
				mustWrite(t, file, kept)
			}},
			{"the file is damaged", func() { mustWrite(t, file, kept[:len(kept)/2]) }},
			{"the file is gone", func() {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}},
		} {
			tc.do()
			d.start()
			d.settle()
			eventually(t, tc.name, func() error { // also where all is applied again
				if got := d.answers(); got != want {
					return fmt.Errorf("it answers\n%s\nwant\n%s", got, want)
				}
				return nil
			})
			if failed := d.metric("usaged_reader_cache_errors_total"); failed > 0 != (tc.name == "the file is damaged") {
				t.Errorf("%s: %v errors were counted", tc.name, failed)
			}
			d.warmed()
			d.stop()
		}
	})
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustWrite(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o640); err != nil {
		t.Fatal(err)
	}
}
