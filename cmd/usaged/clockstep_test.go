package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usaged/exporter/remotewrite/remotewritetest"
)

// stepSource is a file of the daemon that reads from a file by how many seconds the wall clock is moved.
const stepSource = `package main

import (
	"os"
	"strconv"
	"time"
)

func init() {
	go func() {
		for range time.Tick(5 * time.Millisecond) {
			data, _ := os.ReadFile(os.Getenv("USAGED_TEST_STEP"))
			if n, err := strconv.ParseInt(string(data), 10, 64); err == nil {
				time.WallStep.Store(n)
			}
		}
	}()
}
`

// buildWithSteps builds a daemon whose wall clock can be moved while it runs, for all that is in it: package time is replaced
// by itself with an offset. Timers go by the monotonic clock, as after a step of the real one.
func buildWithSteps(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	text := string(source)
	for _, change := range [][2]string{
		{"import (\n", "import (\n\t\"sync/atomic\"\n"},
		{"func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n", "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n\tsec += WallStep.Load()\n"},
		{"func unixTime(", "// WallStep moves the wall clock, in seconds.\nvar WallStep atomic.Int64\n\nfunc unixTime("},
	} {
		if strings.Count(text, change[0]) != 1 {
			t.Fatalf("package time of this Go is not the one that this test knows: it has %q %d times", change[0], strings.Count(text, change[0]))
		}
		text = strings.Replace(text, change[0], change[1], 1)
	}
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {
		original:                        filepath.Join(dir, "time.go"),
		filepath.Join(here, "steps.go"): filepath.Join(dir, "steps.go"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"time.go": text, "steps.go": stepSource, "overlay.json": string(overlay)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "usaged")
	if out, err := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// stepped is a daemon whose wall clock can be moved while it runs.
type stepped struct {
	*instance
	program, file string
}

func (s *stepped) start() {
	s.tb.Helper()
	if err := os.Remove(s.urlFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.tb.Fatal(err)
	}
	cmd := exec.Command(s.program, s.args...)
	cmd.Env, cmd.SysProcAttr = append(cleanEnv(), "USAGED_TEST_STEP="+s.file), childAttr()
	cmd.Stdout, cmd.Stderr = s.log, s.log
	s.run = spawn(s.tb, cmd)
	eventually(s.tb, "start", func() error {
		url, err := os.ReadFile(s.urlFile())
		s.url = strings.TrimSpace(string(url))
		return err
	})
}

// step moves the clock by so much from the real one, and waits until the daemon has noticed.
func (s *stepped) step(d time.Duration) {
	s.tb.Helper()
	if err := os.WriteFile(s.file, fmt.Appendf(nil, "%d", int64(d.Seconds())), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	eventually(s.tb, "the daemon notices the step", func() error {
		if jump := s.metric("usaged_clock_jump_seconds"); (jump != 0) != (d != 0) {
			return fmt.Errorf("the clock has jumped by %v seconds", jump)
		}
		return nil
	})
}

// flowing is 1 where samples are scraped, and recorded by rules.
const flowing = "count_over_time(up[2s]) > bool 5 and on () count_over_time(recorded[2s]) > 5"

// TestTheClockIsMoved moves the wall clock of a running daemon 60 days ahead, behind, and back. Samples are scraped, recorded by rules
// and sent by remote write all the time, after a kill too, and what was stored before is as it was.
func TestTheClockIsMoved(t *testing.T) {
	t.Parallel()
	if !full() {
		t.Skip("make e2e runs this: it builds Go's library and the daemon anew")
	}
	receiver := remotewritetest.New(t)
	rules := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(rules, []byte("groups: [{name: own, interval: 100ms, rules: [{record: recorded, expr: vector(1)}]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &stepped{program: buildWithSteps(t), file: filepath.Join(t.TempDir(), "step"), instance: newInstance(t, "--rules.file="+rules,
		prometheusFile(t, fmt.Sprintf("%sremote_write: [{url: %s, queue_config: {batch_send_deadline: 100ms}}]\n", fastScrapes, receiver.URL)))}
	flows := func(when string) {
		t.Helper()
		s.becomes(flowing, "1")
		now := time.Now().UnixMilli()
		receiver.Await(t, when, func() bool {
			for series, samples := range receiver.Samples() {
				for at := range samples {
					if strings.HasPrefix(series, `{__name__="up"`) && at > now && at < now+time.Hour.Milliseconds() {
						return true
					}
				}
			}
			return false
		})
	}
	s.start()
	flows("before")
	at := float64(time.Now().UnixMilli()) / 1000
	s.becomes(fmt.Sprintf("timestamp(up) > bool %.3f and on () timestamp(recorded) > %.3f", at, at), "1") // so that no more comes of before
	stored := s.storedAt(at)
	if len(stored) != 2 {
		t.Fatalf("stored before: %v", stored)
	}
	s.step(60 * 24 * time.Hour)
	flows("60 days ahead")
	s.kill()
	s.start()
	flows("60 days ahead after a kill")
	s.step(-3 * 24 * time.Hour)
	flows("3 days behind")
	s.step(0)
	flows("back again")
	s.kill()
	s.start()
	flows("after a kill")
	if again := s.storedAt(at); !maps.Equal(stored, again) {
		t.Errorf("what was stored before is now %v; it was %v", again, stored)
	}
}

// storedAt counts the samples of the minute before a time, by the labels of their series.
func (s *stepped) storedAt(at float64) map[string]any {
	s.tb.Helper()
	result, err := s.promQL(fmt.Sprintf("count_over_time({__name__=~\"up|recorded\"}[1m] @ %.3f)", at))
	if err != nil {
		s.tb.Fatal(err)
	}
	counts := map[string]any{}
	for _, series := range result {
		counts[fmt.Sprint(series.Metric)] = series.Value[1]
	}
	return counts
}
