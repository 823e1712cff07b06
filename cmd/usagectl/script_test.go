package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/store/redis/redistest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"usagectl": main})
}

// TestScript runs the tool as a process. Each script has a daemon of its own, to which $DATA leads.
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			d := newFakeDaemon(t)
			d.now = time.Now
			data := filepath.Join(env.WorkDir, "data")
			if err := os.Mkdir(data, 0o700); err != nil {
				return err
			}
			d.announce(t, data)
			env.Setenv("DATA", data)
			env.Setenv("USAGE_DATA_DIR", data)
			env.Setenv("DAEMON", d.URL)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"journal": func(ts *testscript.TestScript, _ bool, args []string) { ts.Check(writeJournal(ts.MkAbs(args[0]))) },
			"redis": func(ts *testscript.TestScript, _ bool, args []string) {
				srv := redistest.Start(t, args...)
				counted(t, srv.URL(), "p1", 6)
				ts.Setenv("REDIS", srv.URL())
			},
			"damage": func(ts *testscript.TestScript, _ bool, args []string) { ts.Check(damage(ts.MkAbs(args[0]))) },
		},
	})
}

// writeJournal makes a journal of three records with two events each.
func writeJournal(dir string) error {
	j, err := journal.Open(journal.Config{Dir: dir, Now: func() time.Time { return fakeNow }})
	if err != nil {
		return err
	}
	dec := event.NewDecoder()
	for i := range 3 {
		body := fmt.Sprintf(`{"id":"e%d","event_type":"a","user_id":"ann","metadata":{"rows":"%d","pad":"%032d"},"source":"s"}`+"\n"+
			`{"event_type":"b","created_at":"2026-11-23T10:00:00.5Z"}`+"\n", i, i, i)
		batch, err := dec.Decode([]byte(body), event.NDJSON, event.Origin{
			Token: "producer", User: "producer", AcceptedAt: fakeNow, Oldest: event.DayOf(fakeNow) - 29,
		})
		if err != nil {
			return err
		}
		if _, err := j.Append(journal.Batch{N: batch.N, Entries: batch.Entries}); err != nil {
			return err
		}
	}
	return j.Close()
}

// damage changes a byte in the middle of a file.
func damage(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	end := len(data)
	for end > 0 && data[end-1] == 0 {
		end--
	}
	data[end/2] ^= 0xff
	return os.WriteFile(path, data, 0o600)
}

// TestInterrupt holds that a signal ends the process soon, with a line that says so.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	d, tl, dir := importing(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	d.faults = func(int) (int, string) {
		cancel(fmt.Errorf("interrupt signal received"))
		return 503, "3600"
	}
	path := writeFile(t, filepath.Join(dir, "e.ndjson"), `{"event_type":"a"}`)
	if code := tl.runContext(ctx, t, "import", path, "--retry-for=2h"); code != exitFailure {
		t.Errorf("exit %d, want 1", code)
	}
	if want := "interrupt signal received"; !strings.Contains(tl.stderr.String(), want) {
		t.Errorf("stderr %q, want %q", &tl.stderr, want)
	}
}
