package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"usaged/aggregator/clock"
	"usaged/tools/waittest"
)

// The tests of this package drive real processes. The daemon is this test binary, executed again with childEnv set: so it
// carries the race detector where the tests do, and takes its clock from a file. The tools, and the daemon that scripts
// use, are built as users build them.
//
//	USAGE_TEST_FULL=1   the long variants: 50 kills, minutes without Redis, a body that times out
//	USAGE_TEST_SEED=7   the moments of the kills
//	USAGE_TESTDATA=DIR  the real data, by default ../shared/data beside the repository
const (
	childEnv      = "USAGED_TEST_CHILD"
	childClockEnv = "USAGED_TEST_CLOCK"
	fullEnv       = "USAGE_TEST_FULL"
	seedEnv       = "USAGE_TEST_SEED"
	dataEnv       = "USAGE_TESTDATA"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(Main(os.Args[1:], childMachine(os.Getenv(childClockEnv))))
	}
	code := m.Run()
	if dir := toolsDir.Load(); dir != nil {
		os.RemoveAll(*dir)
	}
	os.Exit(code)
}

// childMachine has the daemon's clocks in tests: the real ones, moved by what the file says, which may change at any time. Both
// are moved by the first duration, as if so much time had passed, and the wall clock alone by the second, as if somebody had set it.
func childMachine(path string) clock.Machine {
	machine := clock.ThisMachine()
	if path == "" {
		return machine
	}
	real := machine.Read
	var moved atomic.Pointer[[2]time.Duration]
	read := func() {
		data, err := os.ReadFile(path)
		if err != nil {
			panic(err)
		}
		var by [2]time.Duration
		for i, text := range strings.Fields(string(data)) {
			if by[i], err = time.ParseDuration(text); err != nil {
				panic(err)
			}
		}
		moved.Store(&by)
	}
	read()
	go func() {
		for range time.Tick(5 * time.Millisecond) {
			read()
		}
	}()
	machine.Read = func() (time.Time, time.Duration) {
		by := moved.Load()
		wall, sinceBoot := real()
		return wall.Add(by[0] + by[1]), sinceBoot + by[0]
	}
	return machine
}

// full says whether the long variants run.
func full() bool { return os.Getenv(fullEnv) != "" }

// missing skips a test that this machine cannot run, and fails it where everything must run.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

var toolsDir atomic.Pointer[string]

// buildTools builds usaged and usagectl once and returns the directory that they are in.
var buildTools = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "usaged-test-bin-")
	if err != nil {
		return "", err
	}
	toolsDir.Store(&dir)
	cmd := exec.Command("go", "build", "-o", dir, "usaged/cmd/usaged", "usaged/cmd/usagectl")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return dir, nil
})

func tools(t testing.TB) string {
	t.Helper()
	dir, err := buildTools()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// realData returns the path of a file of the real data.
func realData(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv(dataEnv)
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		missing(t, "no real data: %v: name its directory with %s", err, dataEnv)
	}
	return path
}

// eventually repeats f until it returns nil, as long as its error changes.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	waittest.Until(t, what, f)
}

// logTail keeps the end of what a process writes, for the report of a failure.
type logTail struct {
	mu   sync.Mutex
	data []byte
}

const logTailBytes = 64 << 10

func (l *logTail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, p...)
	if over := len(l.data) - logTailBytes; over > 0 {
		l.data = append(l.data[:0], l.data[over:]...)
	}
	return len(p), nil
}

func (l *logTail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.data)
}

var _ io.Writer = (*logTail)(nil)
