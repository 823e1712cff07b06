package faults

import (
	"strings"
	"sync"
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

// alarm returns a line of the log by which an operator was told: an error, or a warning.
func (l *daemonLog) alarm() string {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
