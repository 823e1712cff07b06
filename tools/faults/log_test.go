package faults

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// daemonLog keeps what a daemon writes.
type daemonLog struct {
	mu   sync.Mutex
	data []byte
}

func (l *daemonLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, p...)
	return len(p), nil
}

func (l *daemonLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.data)
}

func (l *daemonLog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.data)
}

// tail returns the end.
func (l *daemonLog) tail(n int) string {
	text := l.String()
	return text[max(0, len(text)-n):]
}

// lastError returns the line with which the daemon ended.
func (l *daemonLog) lastError() string {
	last := "nothing"
	for line := range strings.Lines(l.String()) {
		if strings.HasPrefix(line, "usaged: ") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

// alarms are the messages by which the daemon says that something of its directory or of the store is missing, damaged or in doubt. A
// warning about anything else, as a scrape that came late, excuses nothing.
var alarms = []string{
	"events that were accepted are no longer in the journal",
	"the file that names the segments of the journal is damaged",
	"cut a torn tail off the journal",
	"the journal cannot be read",
	"a checkpoint is missing",
	"rebuilding from a checkpoint: what came before has left the journal",
	"damaged files were set aside",
	"a state file was missing or damaged",
	"the ledger does not balance",
	"store has lost what was applied to it",
	"the store holds events that this journal does not",
	"some days cannot be restored whole",
	"counting new events under a new producer id",
	"another usaged counts under this data directory's producer id",
	"events may be counted twice",
	"the file of the clock cannot be used",
	"the file of the retention cannot be used",
}

// alarm returns a line of the log by which an operator was told of the fault: a warning or an error that names the file, where there
// is one, or whose message is one of [alarms].
func (l *daemonLog) alarm(file string) string {
	for line := range strings.Lines(l.String()) {
		if !strings.Contains(line, "level=ERROR") && !strings.Contains(line, "level=WARN") {
			continue
		}
		about := func(message string) bool { return strings.Contains(line, message) }
		if file != "" && about(file) || slices.ContainsFunc(alarms, about) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// TestAlarm excuses no loss by a warning about something else.
func TestAlarm(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line string
		told bool
	}{
		{`level=WARN msg="the scraper has not taken its targets yet"`, false},
		{`level=INFO msg="damaged files were set aside"`, false},
		{`level=ERROR msg="damaged files were set aside; the daemon goes on without what was in them" what=tsdb`, true},
		{`level=WARN msg="it could not be used" path=/data/ids.json`, true},
		{`level=WARN msg="it could not be used" path=/data/clock.json`, false},
	} {
		var log daemonLog
		fmt.Fprintln(&log, tt.line)
		if got := log.alarm("ids.json"); (got != "") != tt.told {
			t.Errorf("of %s the alarm about ids.json is %q", tt.line, got)
		}
	}
}
