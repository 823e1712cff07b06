package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/meter"
	"usaged/aggregator/store/sqlite"
	"usaged/client"
)

// tailLine is what the tests look at in a line of the tail, or of journal cat.
type tailLine struct {
	ID         string    `json:"id"`
	UserID     string    `json:"user_id"`
	Type       string    `json:"event_type"`
	AcceptedAt time.Time `json:"accepted_at"`
}

// tailLines reads NDJSON. A last line without its newline, which a kill has left, is not one.
func tailLines(t *testing.T, text []byte) (list []tailLine) {
	t.Helper()
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var l tailLine
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		list = append(list, l)
	}
	return list
}

func idsOf(list []tailLine) (ids []string) {
	for _, l := range list {
		ids = append(ids, l.ID)
	}
	return ids
}

// journalIDs are the ids of all events in the journal, in order.
func (d *instance) journalIDs(t *testing.T) []string {
	t.Helper()
	r := d.usagectl("journal", "cat", d.dir)
	if r.code != 0 {
		t.Fatalf("journal cat: %s", r.stderr)
	}
	return idsOf(tailLines(t, []byte(r.stdout)))
}

// steadyInstance is a daemon that listens at the same address after each start, beside the one of its own choice.
func steadyInstance(t *testing.T, args ...string) (d *instance, url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return newInstance(t, append(args, "--web.listen-address="+address)...), "http://" + address
}

// TestTailOverKills follows, with the client and with usagectl, a daemon that is killed at random moments under load. Both have
// at the end what journal cat has, in its order, each event once.
func TestTailOverKills(t *testing.T) {
	t.Parallel()
	kills := 4
	if full() {
		kills = 25
	}
	d, url := steadyInstance(t)
	d.start()
	l := startLoad(t, d, seed(t), 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c, err := client.New(client.Config{URL: url, Token: d.token("admin")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var ids []string
	var read atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e, err := range c.Tail(ctx, client.TailQuery{Follow: true}) {
			if err != nil {
				if ctx.Err() == nil {
					t.Error(err)
				}
				return
			}
			ids = append(ids, e.ID)
			read.Add(1)
		}
	}()
	out := filepath.Join(t.TempDir(), "out.ndjson")
	file, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := d.usagectlCommand("tail", "--url="+url, d.adminToken(), "--follow", "--output=json", "--cursor-file="+filepath.Join(t.TempDir(), "cursors"))
	cmd.Stdout, cmd.Stderr = file, d.log
	follower := spawn(t, cmd)
	for range kills {
		l.until(150)
		d.kill()
		d.start()
		l.reach(d.url)
	}
	l.until(100)
	l.stop()
	want := d.journalIDs(t)
	eventually(t, "follow to the end", func() error {
		data, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		if n := bytes.Count(data, []byte("\n")); n < len(want) || read.Load() < int64(len(want)) {
			return fmt.Errorf("usagectl has %d events and the client %d of %d", n, read.Load(), len(want))
		}
		return nil
	})
	stop()
	<-done
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-follower.exited
	if follower.code != 0 {
		t.Errorf("usagectl tail exits with %d after SIGTERM", follower.code)
	}
	if !slices.Equal(ids, want) {
		t.Errorf("the client has %d events, the journal %d, or another order", len(ids), len(want))
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if got := idsOf(tailLines(t, data)); !slices.Equal(got, want) {
		t.Errorf("usagectl has %d events, the journal %d, or another order", len(got), len(want))
	}
	t.Logf("%d kills, %d events", kills, len(want))
}

// TestTailCursorFile ends the tool again and again, by its limit and by signals, and starts it again with its cursor file: what
// it has written together is the journal, each event once.
func TestTailCursorFile(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	l := startLoad(t, d, seed(t), 1)
	cursors := filepath.Join(t.TempDir(), "cursors")
	var all bytes.Buffer
	for i := range 12 {
		l.until(20)
		args := []string{"tail", "--output=json", "--cursor-file=" + cursors}
		if i%3 == 0 {
			args = append(args, "--limit=57")
		}
		if i%3 != 2 {
			r := d.usagectl(args...)
			if r.code != 0 {
				t.Fatalf("tail: %s", r.stderr)
			}
			all.WriteString(r.stdout)
			continue
		}
		cmd := d.usagectlCommand(append(args, "--follow")...)
		path := filepath.Join(t.TempDir(), "out.ndjson")
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = out, d.log
		p := spawn(t, cmd)
		eventually(t, "follow", func() error {
			if info, err := out.Stat(); err != nil || info.Size() == 0 {
				return fmt.Errorf("no event yet: %w", err)
			}
			return nil
		})
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if <-p.exited; p.code != 0 {
			t.Errorf("exit code %d after an interrupt", p.code)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		all.Write(must(os.ReadFile(path)))
	}
	l.stop()
	all.WriteString(d.usagectl("tail", "--output=json", "--cursor-file="+cursors).stdout)
	if got, want := idsOf(tailLines(t, all.Bytes())), d.journalIDs(t); !slices.Equal(got, want) {
		t.Errorf("%d events were written, the journal has %d, or another order", len(got), len(want))
	}
	for range 2 {
		if r := d.usagectl("tail", "--cursor-file="+cursors); r.code != 0 || r.stdout != "" {
			t.Errorf("nothing is new, but: %d %s%s", r.code, r.stdout, r.stderr)
		}
	}
}

// TestStopDoesNotWaitForFollowers holds that a daemon with streams open stops at once and in order.
func TestStopDoesNotWaitForFollowers(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	d.post(`{"event_type":"a"}`)
	var followers []*process
	for range 3 {
		cmd := d.usagectlCommand("tail", "--follow", "--output=json", "--since=1h", "--limit=1000")
		out := &logTail{}
		cmd.Stdout = out
		followers = append(followers, spawn(t, cmd))
		eventually(t, "follow", func() error {
			if !strings.Contains(out.String(), "\n") {
				return errors.New("no event yet")
			}
			return nil
		})
	}
	d.stop()
	if log := d.log.String(); strings.Contains(log, "too slow") {
		t.Errorf("the stop has cut connections:\n%s", log)
	}
	for _, f := range followers {
		_ = f.cmd.Process.Kill()
		<-f.exited
	}
}

// TestTailReplicas merges two daemons.
func TestTailReplicas(t *testing.T) {
	t.Parallel()
	a, b := newInstance(t), newInstance(t)
	for _, d := range []*instance{a, b} {
		d.start()
	}
	var want []string
	for i := range 60 {
		d := []*instance{a, b, b}[i%3]
		id := fmt.Sprintf("e%03d", i)
		d.post(fmt.Sprintf(`{"id":%q,"event_type":"t%d","user_id":"u%d"}`, id, i%2, i%5))
		want = append(want, id)
		pass(3 * time.Millisecond) // accepted_at has milliseconds
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(a.token("admin")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "tokens.yml"), must(os.ReadFile(filepath.Join(a.dir, "tokens.yml"))), 0o600); err != nil {
		t.Fatal(err)
	}
	b.do("POST", "/-/reload", "admin", nil, nil)
	both := []string{"tail", "--url=" + a.url, "--url=" + b.url, "--token-file=" + token, "--output=json"}
	r := a.usagectl(both...)
	if got := idsOf(tailLines(t, []byte(r.stdout))); !slices.Equal(got, want) {
		t.Errorf("merged: %v\n%s", got, r.stderr)
	}
	r = a.usagectl(append(both, "--follow", "--limit=60", "--since=1h")...)
	if got := idsOf(tailLines(t, []byte(r.stdout))); !slices.Equal(got, want) {
		t.Errorf("merged while following: %v\n%s", got, r.stderr)
	}
	r = a.usagectl(append(both, "--type=t1", "--user=u2")...)
	if got := idsOf(tailLines(t, []byte(r.stdout))); !slices.Equal(got, []string{"e007", "e017", "e027", "e037", "e047", "e057"}) {
		t.Errorf("filtered: %v\n%s", got, r.stderr)
	}
	if r = a.usagectl("ledger", "--url="+a.url, "--url="+b.url); r.code != 2 {
		t.Errorf("two URLs for ledger: exit code %d", r.code)
	}
}

// TestTailWikipedia compares filtered tails of real data with the truth that stands beside the file.
func TestTailWikipedia(t *testing.T) {
	t.Parallel()
	file := realData(t, wikiFile)
	tr := readTruth(t, file)
	d := newInstance(t)
	d.start()
	d.importFile(0, "--shift-to-now", "--jq="+wikiJQ, file)
	types := map[string]uint64{}
	for name := range tr.Types {
		r := d.usagectl("tail", "--since=1h", "--output=json", "--type="+name)
		list := tailLines(t, []byte(r.stdout))
		for _, l := range list {
			types[l.Type]++
		}
	}
	if diff := cmp.Diff(tr.Types, types); diff != "" {
		t.Errorf("events by type (-truth +tail):\n%s", diff)
	}
	for _, busiest := range tr.BusiestUsers {
		r := d.usagectl("tail", "--since=1h", "--output=json", "--user="+busiest.User)
		if got := uint64(len(tailLines(t, []byte(r.stdout)))); got != busiest.Events {
			t.Errorf("user %q: %d events, want %d", busiest.User, got, busiest.Events)
		}
	}
}

// TestDrain sends what a killed daemon has not counted to another, with an interruption, twice: each event is counted by one of
// the two, and the drained directory starts no more.
func TestDrain(t *testing.T) {
	t.Parallel()
	dead, live := newInstance(t), newInstance(t)
	dead.start()
	live.start()
	l := newLoad(t, dead)
	l.start(seed(t), 1, []mode{{name: "batch-once", events: 200}, {name: "single-ids", ids: true}})
	l.until(300)
	dead.kill()
	l.stop()
	counted := sqliteCounted(t, dead)
	total := uint64(len(dead.journalIDs(t)))

	dry := live.usagectl("journal", "drain", dead.dir)
	if dry.code != 0 || !strings.Contains(dry.stdout, "add --yes") && counted < total {
		t.Errorf("dry run: %d %s%s", dry.code, dry.stdout, dry.stderr)
	}
	if got := live.settle().All.Accepted; got != 0 {
		t.Errorf("a dry run has sent %d events", got)
	}
	var report struct {
		Events, Counted, Duplicates, Sent, Refused uint64
		Complete                                   bool
	}
	for range 2 {
		r := live.usagectl("journal", "drain", dead.dir, "--yes", "--output=json")
		if r.code != 0 {
			t.Fatalf("drain: %d %s", r.code, r.stderr)
		}
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
			t.Fatal(err)
		}
		if report.Counted+report.Events+report.Duplicates != total || report.Sent != report.Events || !report.Complete {
			t.Errorf("%+v of %d events", report, total)
		}
	}
	if report.Counted != counted {
		t.Errorf("drain takes %d events for counted, the store has counted %d", report.Counted, counted)
	}
	t.Logf("%d events were counted, %d drained", report.Counted, report.Events)
	if got := live.settle().All; got.Counted != report.Events || got.Accepted != report.Sent {
		t.Errorf("the live daemon has %+v, want %d events", got, report.Events)
	}
	// Sent again whole, as where the file of the progress is lost, the same ids count nothing.
	if err := os.Remove(filepath.Join(dead.dir, "drained.json")); err != nil {
		t.Fatal(err)
	}
	live.usagectl("journal", "drain", dead.dir, "--yes")
	if got := live.settle().All; got.Counted != report.Events || got.Duplicates != report.Events {
		t.Errorf("drained again: %+v, want as many duplicates as events, %d", got, report.Events)
	}
	dead.launch()
	if code := dead.wait(); code != 1 || !strings.Contains(dead.log.String(), "journal drain") {
		t.Errorf("a drained directory starts: exit code %d\n%s", code, dead.log)
	}
}

// sqliteCounted asks a copy of the database of a daemon that is not running what it has counted.
func sqliteCounted(t *testing.T, d *instance) (n uint64) {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(d.dir)); err != nil {
		t.Fatal(err)
	}
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(copied, "usage.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	producers, err := st.Producers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range producers {
		for series, total := range p.Totals {
			if series.Family == meter.FamilyEvents {
				n += total
			}
		}
	}
	return n
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

// TestBenchTail reads as many events as there are, also where the last request gets none.
func TestBenchTail(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--prometheus.enabled=false")
	d.start()
	for range 4 {
		d.post(`{"event_type":"a","user_id":"ann"}`)
	}
	for _, limit := range []string{"1", "2", "3", "4", "5"} {
		got := d.usagectl("bench", "tail", "--limit="+limit, "--output=json")
		if got.code != 0 || !strings.Contains(got.stdout, `"events": 4,`) {
			t.Errorf("--limit=%s: exit code %d, %s%s; want 4 events", limit, got.code, got.stdout, got.stderr)
		}
	}
}
