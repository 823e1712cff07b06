package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

const backfillHelp = `Have the daemon write what its journal knows of the past into its Prometheus, so that it knows what to expect: the activity by type, at the time at which events were created. It does so by itself some minutes after an import. Asking again is harmless.`

// backfillCommand has the past written.
type backfillCommand struct{ wait bool }

func addBackfill(app *kingpin.Application, _ *session, commands map[string]command) {
	c := &backfillCommand{}
	cmd := app.Command("backfill", backfillHelp)
	cmd.Flag("wait", "Return when it is done.").BoolVar(&c.wait)
	commands[cmd.FullCommand()] = c.run
}

func (c *backfillCommand) run(ctx context.Context, s *session) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	state, err := api.Backfill(ctx)
	if err == nil && c.wait {
		state, err = c.await(ctx, s, api, state)
	}
	if err != nil {
		return err
	}
	if s.json() {
		return printJSON(s, state)
	}
	if state.Phase != "idle" {
		_, err = fmt.Fprintln(s.stdout, "noted; the daemon goes on by itself")
		return err
	}
	return printBackfill(s, state.Last)
}

// await polls the daemon until it is idle.
func (c *backfillCommand) await(ctx context.Context, s *session, api *client.Client, state *client.Backfill) (*client.Backfill, error) {
	var p *progress
	for state.Phase != "idle" && state.Error == "" {
		if p == nil && state.Events > 0 {
			p = newProgress(s.stderr, int64(state.Events))
			defer p.stop()
		}
		if p != nil {
			p.reach(state.Done)
		}
		if err := sleepUntil(ctx, time.Now().Add(rebuildPoll)); err != nil {
			return nil, err
		}
		var err error
		if state, err = api.BackfillState(ctx); err != nil {
			return nil, err
		}
	}
	if state.Error != "" {
		return nil, fmt.Errorf("the past could not be written; the daemon tries again by itself: %s", state.Error)
	}
	if state.Last == nil {
		return nil, errors.New("the daemon has not begun: was it restarted just now?")
	}
	return state, nil
}

// printBackfill says what was written.
func printBackfill(s *session, r *client.BackfillReport) error {
	const form = "2006-01-02 15:04"
	t := newTable("", "")
	t.add("events read", thousands(r.Events))
	t.add("event types", thousands(uint64(r.Types)))
	if !r.From.IsZero() {
		t.add("written", fmt.Sprintf("%s to %s UTC", r.From.UTC().Format(form), r.Until.UTC().Format(form)))
	}
	t.add("samples", thousands(r.Samples))
	t.rows = t.rows[1:] // the headings are blank
	if err := t.write(s.stdout); err != nil {
		return err
	}
	if !r.Known.IsZero() {
		fmt.Fprintf(s.stdout, "the journal begins at %s UTC: of the time before it is known what an earlier backfill has written\n", r.Known.UTC().Format(form))
	}
	_, err := fmt.Fprintf(s.stdout, "%.1f s\n", r.Seconds)
	return err
}
