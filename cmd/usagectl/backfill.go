package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

const backfillHelp = `Have the daemon write what its journal knows of the past into its Prometheus, so that it knows what to expect: the activity by type, at the time at which events were created. It does so by itself some minutes after an import. Asking again is harmless.

With --openmetrics it is also written into a file, for another Prometheus: of the daemon that is found by itself, or added up over each --url.`

// backfillCommand has the past written.
type backfillCommand struct {
	wait               bool
	openMetrics, until string
}

func addBackfill(app *kingpin.Application, _ *session, commands map[string]command) {
	c := &backfillCommand{}
	cmd := app.Command("backfill", backfillHelp)
	cmd.Flag("wait", "Return when it is done.").BoolVar(&c.wait)
	cmd.Flag("openmetrics", "Wait, and write the activity of the last 31 days into this file (- is stdout) in the text format of OpenMetrics: for promtool tsdb create-blocks-from openmetrics.").
		PlaceHolder("FILE").StringVar(&c.openMetrics)
	cmd.Flag("until", "With --openmetrics, up to this time (2026-11-23T10:00:00Z): when the other Prometheus began to record. Default: now.").
		PlaceHolder("TIME").StringVar(&c.until)
	commands[cmd.FullCommand()] = c.run
}

func (c *backfillCommand) run(ctx context.Context, s *session) error {
	if c.openMetrics != "" {
		return c.export(ctx, s)
	}
	if c.until != "" {
		return usagef("--until goes with --openmetrics")
	}
	if len(s.flagURLs) > 1 {
		return usagef("--url is given more than once, which goes with --openmetrics")
	}
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
		_, err = fmt.Fprintln(s.stdout, "the daemon has been asked to write the past into its Prometheus, and goes on by itself; `usagectl backfill` again shows how far it is")
		return err
	}
	return printBackfill(s, state.Last)
}

// export has each daemon write its past, and writes what they know into a file.
func (c *backfillCommand) export(ctx context.Context, s *session) error {
	until, err := parseTimeText(c.until, s.now())
	if err != nil {
		return usagef("--until: %q is no time: give one as 2026-11-23T10:00:00Z", c.until)
	}
	if until.IsZero() {
		until = s.now()
	}
	o := &openMetrics{until: until.UTC().Truncate(pastStep)}
	for one := range s.replicas() {
		api, err := one.client(reading)
		if err != nil {
			return err
		}
		defer api.Close()
		o.daemons = append(o.daemons, api)
		state, err := api.Backfill(ctx)
		if err == nil {
			_, err = c.await(ctx, one, api, state)
		}
		if err != nil {
			return err
		}
	}
	if c.openMetrics == "-" || c.openMetrics == stdinArgument {
		return o.write(ctx, s.stdout)
	}
	file, err := os.Create(c.openMetrics)
	if err != nil {
		return fmt.Errorf("--openmetrics: %w", err)
	}
	if err := errors.Join(o.write(ctx, file), file.Close()); err != nil {
		return errors.Join(err, os.Remove(c.openMetrics))
	}
	if s.json() {
		return printJSON(s, map[string]any{"file": c.openMetrics, "series": o.series, "samples": o.samples, "until": o.until})
	}
	_, err = fmt.Fprintf(s.stdout, "wrote %s samples of %s series up to %s into %s\n",
		thousands(o.samples), thousands(o.series), o.until.Format(time.RFC3339), c.openMetrics)
	return err
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
