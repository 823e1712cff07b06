package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"usaged/tools/waittest"
)

// instance is a usaged of one test, with a data directory of its own. It may be stopped and started any number of times.
type instance struct {
	tb    testing.TB
	dir   string
	args  []string
	env   []string
	clock string // the file that moves the daemon's clock; empty: the real one
	drop  func() // empties the store; nil: it is the embedded database
	http  *http.Client

	url string // since start
	log *logTail
	run *process

	imbalance string // that was reported last
}

// process is one child.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when code is known
	code   int
}

// newInstance returns a daemon that is not started yet.
func newInstance(t testing.TB, args ...string) *instance {
	t.Helper()
	return instanceIn(t, filepath.Join(t.TempDir(), "data"), args...)
}

func instanceIn(t testing.TB, dir string, args ...string) *instance {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	d := &instance{
		tb: t, dir: dir, log: &logTail{},
		args: append([]string{"--data.dir=" + dir, "--web.listen-address=127.0.0.1:0"}, args...),
		http: &http.Client{Transport: transport},
	}
	t.Cleanup(func() {
		if d.run != nil {
			d.kill()
		}
		transport.CloseIdleConnections()
		if log := d.log.String(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic") {
			t.Error("the daemon's log has a data race or a panic")
		}
		if t.Failed() {
			t.Logf("log of the daemon in %s:\n%s", d.dir, d.log)
		}
	})
	return d
}

// clockAt makes the daemon's clock begin at a time. It goes on at the usual pace, across restarts too.
func (d *instance) clockAt(now time.Time) {
	d.tb.Helper()
	d.moveClocks(time.Until(now), 0)
}

// moveClocks lets time pass for the daemon's machine, and sets its wall clock ahead beside that.
func (d *instance) moveClocks(passed, step time.Duration) {
	d.tb.Helper()
	if d.clock == "" {
		d.clock = filepath.Join(d.tb.TempDir(), "clock")
	}
	temporary := d.clock + ".new"
	if err := os.WriteFile(temporary, []byte(passed.String()+" "+step.String()), 0o644); err != nil {
		d.tb.Fatal(err)
	}
	if err := os.Rename(temporary, d.clock); err != nil {
		d.tb.Fatal(err)
	}
}

// command is this test binary as the daemon.
func command(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(cleanEnv(), childEnv+"=1")
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = childAttr()
	return cmd
}

// cleanEnv is the environment without what would configure the daemon or the tool.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "USAGE") })
}

// launch starts the process and does not wait until it answers.
func (d *instance) launch() {
	d.tb.Helper()
	if d.run != nil {
		d.tb.Fatal("launched twice")
	}
	if err := os.Remove(d.urlFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.tb.Fatal(err)
	}
	cmd := command(append(slices.Clone(d.env), childClockEnv+"="+d.clock), d.args...)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	d.run = spawn(d.tb, cmd)
}

func spawn(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the state says how it ended
		p.code = cmd.ProcessState.ExitCode()
		close(p.exited)
	}()
	return p
}

func (d *instance) urlFile() string { return filepath.Join(d.dir, "usaged.url") }

// start starts the daemon and waits until it answers.
func (d *instance) start() {
	d.tb.Helper()
	d.launch()
	eventually(d.tb, "start", func() error {
		select {
		case <-d.run.exited:
			d.tb.Fatalf("the daemon exited with %d at its start:\n%s", d.run.code, d.log)
		default:
		}
		url, err := os.ReadFile(d.urlFile())
		d.url = strings.TrimSpace(string(url))
		return err
	})
}

// stop asks the daemon to stop and expects a clean end.
func (d *instance) stop() {
	d.tb.Helper()
	d.signal(syscall.SIGTERM)
	if code := d.wait(); code != 0 {
		d.tb.Errorf("exit code after SIGTERM %d, want 0", code)
	}
}

func (d *instance) kill() {
	d.tb.Helper()
	_ = d.run.cmd.Process.Kill() // it may be gone
	d.wait()
}

func (d *instance) signal(s os.Signal) {
	d.tb.Helper()
	if err := d.run.cmd.Process.Signal(s); err != nil {
		d.tb.Fatal(err)
	}
}

// wait waits for the exit and returns its code.
func (d *instance) wait() int {
	d.tb.Helper()
	if !waittest.Closed(d.run.exited) {
		d.tb.Fatal("the daemon does not exit")
	}
	code := d.run.code
	d.run, d.url = nil, ""
	return code
}

// dropDatabase empties the store of a daemon that is not running.
func (d *instance) dropDatabase() {
	d.tb.Helper()
	if d.drop != nil {
		d.drop()
		return
	}
	files, err := filepath.Glob(filepath.Join(d.dir, "usage.db*"))
	if err != nil || len(files) == 0 {
		d.tb.Fatalf("database files %v, %v; want some", files, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			d.tb.Fatal(err)
		}
	}
}

// token returns the token of a role that the daemon made, or "" for no role.
func (d *instance) token(role string) string {
	d.tb.Helper()
	if role == "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(d.dir, role+".token"))
	if err != nil {
		d.tb.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// answer is what came back on a request.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request and fails the test where no answer comes.
func (d *instance) do(method, path, role string, header map[string]string, body []byte) answer {
	d.tb.Helper()
	ctx, cancel := waittest.Context(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, d.url+path, bytes.NewReader(body))
	if err != nil {
		d.tb.Fatal(err)
	}
	if token := d.token(role); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := d.http.Do(req)
	if err != nil {
		d.tb.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		d.tb.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, data}
}

// get reads a path that must answer 200, if need be after a while: a daemon whose store is slow, as on a busy machine, asks for
// time with 503.
func (d *instance) get(path, role string) []byte {
	d.tb.Helper()
	var a answer
	eventually(d.tb, "GET "+path, func() error {
		if a = d.do(http.MethodGet, path, role, nil, nil); a.status == http.StatusServiceUnavailable {
			return fmt.Errorf("status %d: %s", a.status, a.body)
		}
		return nil
	})
	if a.status != http.StatusOK {
		d.tb.Fatalf("GET %s: status %d, want 200: %s", path, a.status, a.body)
	}
	return a.body
}

func (d *instance) getJSON(path string, v any) {
	d.tb.Helper()
	body := d.get(path, "admin")
	if err := json.Unmarshal(body, v); err != nil {
		d.tb.Fatalf("GET %s: %v in %.200s", path, err, body)
	}
}

const eventsPath = "/api/v1/usage/events"

// post sends NDJSON as the producer and expects 202.
func (d *instance) post(lines ...string) {
	d.tb.Helper()
	a := d.do(http.MethodPost, eventsPath, "producer", map[string]string{"Content-Type": "application/x-ndjson"},
		[]byte(strings.Join(lines, "\n")+"\n"))
	if a.status != http.StatusAccepted {
		d.tb.Fatalf("POST events: status %d, want 202: %s", a.status, a.body)
	}
}

type account struct{ Accepted, Counted, Duplicates, Pending, Damaged uint64 }

// balance returns an error unless every accepted event is in one place.
func (a account) balance() error {
	if a.Accepted != a.Counted+a.Duplicates+a.Pending+a.Damaged {
		return fmt.Errorf("accepted ≠ counted + duplicates + pending + damaged in %+v", a)
	}
	return nil
}

type ledger struct {
	All   account
	Types map[string]account
}

func (l *ledger) balance() error {
	errs := []error{l.All.balance()}
	for _, name := range slices.Sorted(maps.Keys(l.Types)) {
		if err := l.Types[name].balance(); err != nil {
			errs = append(errs, fmt.Errorf("type %q: %w", name, err))
			if len(errs) > 5 {
				break
			}
		}
	}
	return errors.Join(errs...)
}

func (d *instance) ledger() *ledger {
	d.tb.Helper()
	var l ledger
	d.getJSON("/api/v1/usage/ledger", &l)
	if err := l.balance(); err != nil && err.Error() != d.imbalance { // settle asks again and again
		d.imbalance = err.Error()
		d.tb.Errorf("ledger: %v", err)
	}
	return &l
}

// settle waits until all that was accepted is applied.
func (d *instance) settle() *ledger {
	d.tb.Helper()
	var l *ledger
	eventually(d.tb, "apply what was accepted", func() error {
		if l = d.ledger(); l.All.Pending > 0 {
			return fmt.Errorf("%d events are pending", l.All.Pending)
		}
		return nil
	})
	return l
}

// figures is everything that the daemon says about what it counted.
type figures struct {
	Summary  map[string]map[string]uint64 // type → user → events
	Users    map[string]uint64
	Daily    map[string]map[string]uint64 // day → type → events
	Ledger   *ledger
	Counters map[string]uint64 // usage_events_total
}

// figures reads everything once it has settled.
func (d *instance) figures(days int) *figures {
	d.tb.Helper()
	f := &figures{Ledger: d.settle(), Counters: d.counters()}
	f.Summary = d.summary(days)
	d.getJSON(fmt.Sprintf("/api/v1/usage/users?days=%d", days), &f.Users)
	f.Daily = d.daily(days)
	return f
}

func (d *instance) summary(days int) map[string]map[string]uint64 {
	d.tb.Helper()
	var s struct{ Summary map[string]map[string]uint64 }
	d.getJSON(fmt.Sprintf("/api/v1/usage/summary?days=%d", days), &s)
	return s.Summary
}

// daily reads events by day and type, or the totals of meters by day.
func (d *instance) daily(days int, meters ...string) map[string]map[string]uint64 {
	d.tb.Helper()
	path := fmt.Sprintf("/api/v1/usage/daily?days=%d", days)
	for _, m := range meters {
		path += "&meter=" + m
	}
	var daily struct{ Daily map[string]map[string]uint64 }
	d.getJSON(path, &daily)
	return daily.Daily
}

// counters scrapes usage_events_total. Types that have counted nothing are left out.
func (d *instance) counters() map[string]uint64 {
	d.tb.Helper()
	counters, err := parseCounters(d.get("/metrics", ""))
	if err != nil {
		d.tb.Fatal(err)
	}
	maps.DeleteFunc(counters, func(_ string, n uint64) bool { return n == 0 })
	return counters
}

// parseCounters finds usage_events_total in a scrape.
func parseCounters(text []byte) (map[string]uint64, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("parse /metrics: %w", err)
	}
	counters := map[string]uint64{}
	for _, m := range families["usage_events_total"].GetMetric() {
		counters[m.GetLabel()[0].GetValue()] = uint64(m.GetCounter().GetValue())
	}
	return counters, nil
}

// same compares figures.
func same(t testing.TB, what string, got, want *figures) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%.4000s", what, diff)
	}
}

// result is what a process that has ended left.
type result struct {
	code           int
	stdout, stderr string
}

// runDaemon runs the daemon as a command that ends by itself.
func runDaemon(t testing.TB, env []string, args ...string) result {
	t.Helper()
	return runToEnd(t, command(env, args...))
}

// usagectl runs the tool against the daemon, in a directory of its own.
func (d *instance) usagectl(args ...string) result {
	d.tb.Helper()
	cmd := d.usagectlCommand(args...)
	return runToEnd(d.tb, cmd)
}

func (d *instance) usagectlCommand(args ...string) *exec.Cmd {
	d.tb.Helper()
	cmd := exec.Command(filepath.Join(tools(d.tb), "usagectl"), append([]string{"--data.dir=" + d.dir}, args...)...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = cleanEnv(), d.tb.TempDir(), childAttr()
	return cmd
}

// adminToken is the flag that names the admin's token, which usagectl sends by itself only to the address that the daemon has announced.
func (d *instance) adminToken() string { return "--token-file=" + filepath.Join(d.dir, "admin.token") }

// runToEnd runs a command until it ends.
func runToEnd(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	p := spawn(t, cmd)
	if !waittest.Closed(p.exited) {
		_ = cmd.Process.Kill()
		<-p.exited
		t.Fatalf("%v does not end:\n%s", cmd, stderr.String())
	}
	return result{p.code, stdout.String(), stderr.String()}
}
