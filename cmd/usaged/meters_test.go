package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/store/redis/redistest"
)

const projectMeter = `meters:
  - name: tokens-by-project
    reference: project_id
    value: total_tokens
    by: reference
`

// metersFile writes a meters file and returns its path.
func metersFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meters.yml")
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// totals reads a meter.
func (d *instance) totals(meter string) map[string]uint64 {
	d.tb.Helper()
	var totals map[string]uint64
	d.getJSON("/api/v1/usage/"+meter, &totals)
	return totals
}

// meterState is how the list of meters describes one.
type meterState struct {
	Name     string
	Complete bool
	Rebuild  *struct {
		Phase        string
		Events, Done uint64
	}
}

// meter finds a meter in the list.
func (d *instance) meter(name string) (meterState, error) {
	d.tb.Helper()
	var list struct{ Meters []meterState }
	d.getJSON("/api/v1/usage/meters", &list)
	for _, m := range list.Meters {
		if m.Name == name {
			return m, nil
		}
	}
	return meterState{}, errors.New("it is not in the list")
}

func (d *instance) completes(name string) {
	d.tb.Helper()
	eventually(d.tb, "count the past of "+name, func() error {
		m, err := d.meter(name)
		if err == nil && !m.Complete {
			err = fmt.Errorf("%+v", m)
		}
		return err
	})
}

// TestMetersFile gives a daemon wrong meters at its start and at reloads, and changes them while it runs.
func TestMetersFile(t *testing.T) {
	t.Parallel()
	const wrong = "meters:\n  - name: queries\n  - name: ledger\n    refrence: x\n"
	path := metersFile(t, wrong)
	refusal := []string{
		path + `:2: the name "queries" is taken by a built-in meter`,
		path + ":3: the name \"ledger\" is taken by the endpoint /api/v1/usage/ledger",
		path + `:4: unknown field "refrence"`,
	}
	for _, args := range [][]string{{"--check-config"}, {"--web.listen-address=127.0.0.1:0"}} {
		dir := filepath.Join(t.TempDir(), "data")
		r := runDaemon(t, nil, append(args, "--data.dir="+dir, "--meters.file="+path)...)
		if want := strings.Join(refusal, "; "); r.code == 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("%s with a wrong file: exit %d, %s, want\n%s", args[0], r.code, r.stderr, want)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s with a wrong file: the data directory was made: %v", args[0], err)
		}
	}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("meters: []\n")
	d := newInstance(t, "--meters.file="+path)
	d.start()
	spend := `{"event_type":"chat","user_id":"ann","metadata":{"project_id":"p1","total_tokens":"10"}}`
	d.post(spend)
	write(projectMeter)
	d.signal(syscall.SIGHUP)
	eventually(t, "a new meter", func() error {
		_, err := d.meter("tokens-by-project")
		return err
	})
	d.post(spend, spend)
	d.settle()
	if diff := cmp.Diff(map[string]uint64{"p1": 20}, d.totals("tokens-by-project")); diff != "" {
		t.Errorf("what came since: %s", diff)
	}
	write(wrong)
	a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil)
	var problem struct{ Detail string }
	if err := json.Unmarshal(a.body, &problem); err != nil || a.status != http.StatusInternalServerError || !strings.Contains(problem.Detail, strings.Join(refusal, "\n")) {
		t.Errorf("reload of a wrong file: status %d, %s, want 500 and %q", a.status, a.body, refusal)
	}
	if diff := cmp.Diff(map[string]uint64{"p1": 20}, d.totals("tokens-by-project")); diff != "" {
		t.Errorf("after a wrong reload: %s", diff)
	}
	if a := d.do(http.MethodPost, "/api/v1/usage/meters/tokens-by-project/rebuild", "admin", nil, nil); a.status != http.StatusAccepted {
		t.Errorf("rebuild: status %d, %s", a.status, a.body)
	}
	d.completes("tokens-by-project")
	if diff := cmp.Diff(map[string]uint64{"p1": 30}, d.totals("tokens-by-project")); diff != "" {
		t.Errorf("rebuilt: %s", diff)
	}
	tag := d.do(http.MethodGet, "/api/v1/usage/tokens-by-project", "admin", nil, nil).header.Get("Etag")
	write(strings.Replace(projectMeter, "total_tokens", "tokens", 1))
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusOK {
		t.Errorf("reload: status %d, %s", a.status, a.body)
	}
	a = d.do(http.MethodGet, "/api/v1/usage/tokens-by-project", "admin", map[string]string{"If-None-Match": tag}, nil)
	if a.status != http.StatusOK || strings.TrimSpace(string(a.body)) != "{}" {
		t.Errorf("a meter that is defined otherwise: status %d, %s, want 200 and {}", a.status, a.body)
	}
	write("meters: []\n")
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusOK {
		t.Errorf("reload: status %d, %s", a.status, a.body)
	}
	if a := d.do(http.MethodGet, "/api/v1/usage/tokens-by-project", "admin", nil, nil); a.status != http.StatusNotFound {
		t.Errorf("a meter that was removed: status %d, %s", a.status, a.body)
	}
}

// TestIngestDuringRebuild posts while the daemon counts the past of one meter after the other. What is accepted meanwhile is
// counted once in each, like what came before and comes behind.
func TestIngestDuringRebuild(t *testing.T) { onEachStore(t, testIngestDuringRebuild) }

func testIngestDuringRebuild(t *testing.T, s testStore) {
	path, names := metersFile(t, "meters: []\n"), []string{"tokens-a", "tokens-b", "tokens-c", "tokens-d"}
	d := s.instance(t, "--meters.file="+path)
	d.start()
	p := newProjects(d)
	for range 20 {
		p.send(10_000)
	}
	file := "meters:\n"
	for _, name := range names {
		file += fmt.Sprintf("  - {name: %s, reference: project_id, value: total_tokens, by: reference}\n", name)
	}
	if err := os.WriteFile(path, []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusOK {
		t.Fatalf("reload: status %d, %s", a.status, a.body)
	}
	before, during := p.sent, 0
	for _, name := range names {
		if r := d.usagectl("meters", "rebuild", name); r.code != 0 {
			t.Fatalf("rebuild: exit code %d, %s", r.code, r.stderr)
		}
		for m := d.meterIn(name); !m.Complete; {
			p.send(100)
			if m = d.meterIn(name); !m.Complete {
				during += 100
			}
		}
	}
	if during == 0 {
		t.Error("no events were accepted during a rebuild")
	}
	p.send(1000)
	p.check("rebuilt", names)
	t.Logf("%d events before, %d while meters were rebuilt, %d in all", before, during, p.sent)
	d.kill()
	d.dropDatabase()
	d.start()
	p.check("after the store was lost", names)
}

func (d *instance) meterIn(name string) meterState {
	d.tb.Helper()
	m, err := d.meter(name)
	if err != nil {
		d.tb.Fatal(err)
	}
	return m
}

// projects are events with tokens that are posted to a daemon, and what they come to.
type projects struct {
	d                 *instance
	sent              int
	byProject, byUser map[string]uint64
}

func newProjects(d *instance) *projects {
	return &projects{d: d, byProject: map[string]uint64{}, byUser: map[string]uint64{}}
}

func (p *projects) send(events int) {
	p.d.tb.Helper()
	lines := make([]string, 0, events)
	for range events {
		project, user, tokens := fmt.Sprintf("p%d", p.sent%50), fmt.Sprintf("u%d", p.sent%333), uint64(p.sent%1000)
		lines = append(lines, fmt.Sprintf(`{"event_type":"chat","user_id":%q,"metadata":{"project_id":%q,"total_tokens":"%d"}}`, user, project, tokens))
		p.byProject[project] += tokens
		p.byUser[user] += tokens
		p.sent++
	}
	p.d.post(lines...)
}

// check compares meters that must be complete.
func (p *projects) check(when string, meters []string) {
	p.d.tb.Helper()
	for _, name := range meters {
		p.d.completes(name)
	}
	p.d.settle()
	for _, name := range meters {
		p.d.wantMeter(when, name, "reference", 7, p.byProject)
		p.d.wantMeter(when, name, "user", 7, p.byUser)
	}
}

// TestRebuildIsKilled kills the daemon while it counts a meter's past and events go on arriving, and compares with the count of
// the sender.
func TestRebuildIsKilled(t *testing.T) {
	t.Parallel()
	t.Run("store=sqlite", func(t *testing.T) {
		t.Parallel()
		testRebuildKilled(t, newInstance(t))
	})
	t.Run("store=redis", func(t *testing.T) {
		t.Parallel()
		srv := redistest.Start(t)
		d := newRedisInstance(t, srv.URL(), "--redis.partitions=4")
		d.drop = func() { srv.Do("FLUSHALL") }
		testRebuildKilled(t, d)
	})
}

func testRebuildKilled(t *testing.T, d *instance) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed(t), 0))
	path := metersFile(t, "meters: []\n")
	d.args = append(d.args, "--meters.file="+path)
	d.start()
	want := map[string]uint64{}
	batches := 0
	send := func() {
		t.Helper()
		lines := make([]string, 0, 10_000)
		for i := range 10_000 {
			project, tokens := fmt.Sprintf("p%d", rng.IntN(50)), rng.Uint64N(1000)
			line := fmt.Sprintf(`{"id":"%d-%d","event_type":"type %d","user_id":"u%d","metadata":{"project_id":%q,"total_tokens":"%d"}}`,
				batches, i, rng.IntN(5), rng.IntN(500), project, tokens)
			lines = append(lines, line)
			want[project] += tokens
			if i%100 == 0 {
				lines[len(lines)-1] += "\n" + line // the same event again
			}
		}
		d.post(lines[:5000]...)
		d.post(lines[5000:]...)
		batches++
	}
	for range 15 {
		send()
	}
	if err := os.WriteFile(path, []byte(projectMeter), 0o644); err != nil {
		t.Fatal(err)
	}
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusOK {
		t.Fatalf("reload: status %d, %s", a.status, a.body)
	}
	send()
	if a := d.do(http.MethodPost, "/api/v1/usage/meters/tokens-by-project/rebuild", "admin", nil, nil); a.status != http.StatusAccepted {
		t.Fatalf("rebuild: status %d, %s", a.status, a.body)
	}
	for range 4 {
		pass(time.Duration(rng.Int64N(int64(300 * time.Millisecond))))
		d.kill()
		d.start()
		send()
	}
	check := func(when string) {
		t.Helper()
		d.completes("tokens-by-project")
		d.settle()
		if diff := cmp.Diff(want, d.totals("tokens-by-project")); diff != "" {
			t.Errorf("%s (-sent +counted):\n%s", when, diff)
		}
	}
	check("after kills")
	d.stop()
	d.dropDatabase()
	d.start()
	check("after the store was lost")
}
