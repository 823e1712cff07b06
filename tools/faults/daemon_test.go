package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"usaged/aggregator/store/redis/redistest"
	"usaged/tools/waittest"
)

var programDir atomic.Pointer[string]

// program builds the daemon once: the test binary of cmd/usaged, which runs the daemon where its environment says so, with a clock
// that a file moves.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "usaged-faults-")
	if err != nil {
		return "", err
	}
	programDir.Store(&dir)
	path := filepath.Join(dir, "usaged")
	cmd := exec.Command("go", "test", "-c", "-o", path, "usaged/cmd/usaged")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return path, nil
})

// daemon is a usaged of one trial.
type daemon struct {
	tb     testing.TB
	dir    string
	args   []string
	clock  string            // the file that moves its clock; empty: none
	tokens map[string]string // as they were made, whatever becomes of the files
	seen   string            // the address file, which may lie behind a view
	log    *daemonLog
	// launched is where the log of the present process begins.
	launched int
	// destroyed is whether the trial has damaged or removed something of the directory.
	destroyed bool
	// harmed is the name of the file that it was, empty where it was none or several.
	harmed  string
	client  *http.Client
	url     string
	process *os.Process
	ended   chan struct{}
}

// newDaemon returns a daemon on a directory, not started.
func (tr *trial) newDaemon(dir string, args ...string) *daemon {
	tr.Helper()
	if tr.store == "redis" {
		if tr.redis == nil {
			tr.redis = redistest.Start(tr.T)
		}
		url := tr.redis.URL()
		if tr.proxy != nil {
			url = tr.proxy.URL()
		}
		args = append(args, "--redis.url="+url)
	}
	return newDaemon(tr.T, dir, args...)
}

func newDaemon(tb testing.TB, dir string, args ...string) *daemon {
	tb.Helper()
	d := &daemon{
		tb: tb, dir: dir, tokens: map[string]string{}, seen: filepath.Join(dir, "usaged.url"), log: &daemonLog{},
		args:   append([]string{"--data.dir=" + dir, "--web.listen-address=127.0.0.1:0"}, args...),
		client: &http.Client{Transport: &http.Transport{}},
	}
	tb.Cleanup(func() {
		d.kill()
		d.client.CloseIdleConnections()
	})
	return d
}

// launch starts the process.
func (d *daemon) launch() {
	d.tb.Helper()
	path, err := program()
	if err != nil {
		d.tb.Fatal(err)
	}
	if err := os.Remove(d.seen); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.tb.Fatal(err)
	}
	cmd := exec.Command(path, d.args...)
	cmd.Env = append(os.Environ(), "USAGED_TEST_CHILD=1", "USAGED_TEST_CLOCK="+d.clock)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = d.log, d.log, childAttr()
	cmd.WaitDelay = time.Second
	d.ended, d.url, d.launched = make(chan struct{}), "", d.log.size()
	ended, started := d.ended, make(chan error)
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the kernel kills the child when the thread that started it ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		d.tb.Fatal(err)
	}
	d.process = cmd.Process
}

func (d *daemon) exited() bool {
	if d.process == nil {
		return true
	}
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

var errEnded = errors.New("the daemon has ended")

// start starts the daemon and waits until it is ready to answer, or has ended.
func (d *daemon) start() error {
	d.tb.Helper()
	d.launch()
	return d.answering()
}

var accepting = regexp.MustCompile(`msg="accepting requests" url=(\S+)\s`)

func (d *daemon) answering() error {
	return d.await("start", func() (bool, string, error) {
		if d.exited() {
			return false, "", errEnded
		}
		// The log says it also where usaged.url cannot be written.
		found := accepting.FindStringSubmatch(d.log.String()[d.launched:])
		if found == nil {
			return false, "", nil
		}
		d.url = found[1]
		d.readTokens()
		return true, "", nil
	})
}

// readTokens reads those that are not known yet.
func (d *daemon) readTokens() {
	for _, role := range []string{"admin", "producer"} {
		if d.tokens[role] != "" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(filepath.Dir(d.seen), role+".token"))
		if err == nil {
			d.tokens[role] = strings.TrimSpace(string(data))
		}
	}
}

func (d *daemon) kill() {
	if d.process == nil {
		return
	}
	_ = d.process.Kill() // it may have ended
	<-d.ended
	d.process = nil
}

// killAsync kills the process and does not wait for its end.
func (d *daemon) killAsync() { _ = d.process.Kill() }

// stop asks the daemon to stop. It kills one that does not.
func (d *daemon) stop() error {
	if d.exited() {
		return nil
	}
	_ = d.process.Signal(syscall.SIGTERM)
	err := d.await("stop", func() (bool, string, error) { return d.exited(), "", nil })
	d.kill()
	return err
}

// request sends a request. The status is 0 where no answer came, and notSent where there was nobody to send it to.
func (d *daemon) request(method, path, role, body string) (int, []byte, error) {
	ctx, cancel := waittest.Context(d.tb.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, d.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+d.tokens[role])
	if body != "" {
		req.Header.Set("Content-Type", "application/x-ndjson")
	}
	resp, err := d.client.Do(req)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED) || d.url == "":
		return notSent, nil, err
	case err != nil:
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, data, err
}

// notSent is the status of a request that nobody took.
const notSent = -1

// post sends a batch and writes down what became of it.
func (d *daemon) post(b *book, x *batch) int {
	sentAt := b.at()
	status, _, _ := d.request(http.MethodPost, "/api/v1/usage/events", "producer", x.body())
	b.note(x, try{sentAt, b.at(), status})
	return status
}

// send sends n new batches, and now and then one again.
func (d *daemon) send(tr *trial, b *book, n int) {
	for range n {
		d.post(b, b.next(tr.rng))
		if x := b.some(tr.rng); x != nil && tr.rng.IntN(3) == 0 {
			d.post(b, x)
		}
	}
}

// view is all that a daemon shows.
type view struct {
	Summary  map[string]map[string]uint64
	Counters map[string]uint64
	Raw      map[string]uint64 // user → accepted events; nil: not looked at
	Ledger   struct{ All account }
	// partial says that the ledger and the counters are those of one of several directories.
	partial bool
}

type account struct{ Accepted, Counted, Duplicates, Pending, Damaged uint64 }

// get reads a path.
func (d *daemon) get(path string) ([]byte, error) {
	status, body, err := d.request(http.MethodGet, path, "admin", "")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("GET %s: status %d: %.300s", path, status, body)
	}
	return body, nil
}

// settled waits until nothing is pending, and returns what the daemon shows then.
func (d *daemon) settled() (*view, error) {
	v := &view{}
	err := d.await("apply what was accepted", func() (bool, string, error) {
		if d.exited() {
			return false, "", errEnded
		}
		body, err := d.get("/api/v1/usage/ledger")
		if err != nil {
			if strings.Contains(err.Error(), "status 401") {
				return false, "", err
			}
			return false, err.Error(), nil
		}
		if err := json.Unmarshal(body, &v.Ledger); err != nil {
			return false, "", err
		}
		return v.Ledger.All.Pending == 0, fmt.Sprint(v.Ledger.All), nil
	})
	if err != nil {
		return nil, err
	}
	return v, d.fill(v)
}

// fill reads the rest of a view.
func (d *daemon) fill(v *view) error {
	return d.await("answer", func() (bool, string, error) {
		var summary struct{ Summary map[string]map[string]uint64 }
		body, err := d.get("/api/v1/usage/summary?days=7")
		if err != nil {
			return false, err.Error(), nil
		}
		if err := json.Unmarshal(body, &summary); err != nil {
			return false, "", err
		}
		v.Summary = summary.Summary
		if body, err = d.get("/metrics"); err != nil {
			return false, err.Error(), nil
		}
		v.Counters = parseCounters(body)
		if body, err = d.get("/api/v1/usage/events"); err != nil {
			return false, err.Error(), nil
		}
		v.Raw = map[string]uint64{}
		for line := range bytes.Lines(body) {
			var event struct {
				User string `json:"user_id"`
			}
			if err := json.Unmarshal(line, &event); err != nil {
				return false, "", fmt.Errorf("raw events: %w in %.200s", err, line)
			}
			v.Raw[event.User]++
		}
		return true, "", nil
	})
}

var counterLine = regexp.MustCompile(`^usage_events_total\{event_type="([^"]*)"\} (\S+)$`)

func parseCounters(text []byte) map[string]uint64 {
	counters := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if m := counterLine.FindStringSubmatch(lines.Text()); m != nil {
			n, err := strconv.ParseFloat(m[2], 64)
			if err == nil && n > 0 {
				counters[m[1]] = uint64(n)
			}
		}
	}
	return counters
}

// jsonInto reads JSON, and says whether it could.
func jsonInto(body []byte, v any) bool { return json.Unmarshal(body, v) == nil }

// await repeats a check until it is done. It gives up where nothing moves: neither what the check returns nor the daemon's log changes,
// and a daemon that starts does not use the processor.
func (d *daemon) await(what string, check func() (done bool, state string, err error)) error {
	return d.awaitFor(waittest.Patience, what, check)
}

// rest is how long figures that are not exact must stay as they are to be judged. It is spent wherever a trial has destroyed something.
const rest = 15 * time.Second

func (d *daemon) awaitFor(patience time.Duration, what string, check func() (done bool, state string, err error)) error {
	var failed error
	err := waittest.RetryFor(patience, func() error {
		done, state, err := check()
		if done || err != nil {
			failed = err
			return nil //nolint:nilerr // the wait is over; failed says how
		}
		return fmt.Errorf("%s (log of %d bytes, processor %s)", state, d.log.size(), d.busy())
	})
	if err != nil {
		return fmt.Errorf("%s: nothing moves: %w", what, err)
	}
	return failed
}

// busy is how many seconds of the processor the daemon has used while it does not answer yet. After that a wait goes by what the
// daemon says, because a daemon always does something.
func (d *daemon) busy() string {
	if d.url != "" || d.process == nil {
		return ""
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.process.Pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	return strings.Join(fields[11:13], "+")
}
