package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

const rebuildHelp = `Have a meter count what was accepted before it was there: each event in the journal of the daemon, and of each --url, once. Run it on every replica, since each has a journal of its own. The daemon goes on by itself, over restarts; asking again is harmless.`

// rebuildPoll is how often the daemon is asked how far it is.
const rebuildPoll = 500 * time.Millisecond

// rebuildCommand has a meter's past counted.
type rebuildCommand struct {
	name string
	wait bool
}

func addRebuild(meters *kingpin.CmdClause, s *session, commands map[string]command) {
	c := &rebuildCommand{}
	cmd := meters.Command("rebuild", rebuildHelp)
	cmd.Arg("name", "The meter, as `meters list` names it.").Required().HintAction(s.meterNames).StringVar(&c.name)
	cmd.Flag("wait", "Return when it is done.").BoolVar(&c.wait)
	commands[cmd.FullCommand()] = c.run
}

func (c *rebuildCommand) run(ctx context.Context, s *session) error {
	answers := []rebuildAnswer{}
	for one := range s.replicas() {
		m, err := c.rebuild(ctx, one)
		if err != nil {
			return fmt.Errorf("%s: %w", one.url, err)
		}
		answers = append(answers, rebuildAnswer{one.url, m})
		if s.json() {
			continue
		}
		what := printable(c.name)
		if len(s.flagURLs) > 1 {
			what += " at " + one.url
		}
		if _, err := fmt.Fprintf(s.stdout, "%s: %s\n", what, progressOf(m)); err != nil {
			return err
		}
	}
	if s.json() {
		return printJSON(s, map[string]any{"rebuilds": answers})
	}
	return nil
}

// rebuildAnswer is how one replica stands.
type rebuildAnswer struct {
	URL   string        `json:"url"`
	Meter *client.Meter `json:"meter"`
}

// rebuild asks one daemon, and waits for it where that is wanted.
func (c *rebuildCommand) rebuild(ctx context.Context, s *session) (*client.Meter, error) {
	api, err := s.client(reading)
	if err != nil {
		return nil, err
	}
	defer api.Close()
	m, err := api.RebuildMeter(ctx, c.name)
	if err != nil || !c.wait || m.Rebuild == nil {
		return m, err
	}
	p := newProgress(s.stderr, int64(m.Rebuild.Events))
	defer p.stop()
	for m.Rebuild != nil && !m.Complete {
		p.reach(m.Rebuild.Done)
		if err := sleepUntil(ctx, time.Now().Add(rebuildPoll)); err != nil {
			return nil, err
		}
		if m, err = c.state(ctx, api); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// state asks how far a daemon is.
func (c *rebuildCommand) state(ctx context.Context, api *client.Client) (*client.Meter, error) {
	list, err := api.Meters(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(m client.Meter) bool { return m.Name == c.name })
	if i < 0 {
		return nil, fmt.Errorf("the meter %s is no longer there; should it come back, its rebuild goes on", printable(c.name))
	}
	return &list[i], nil
}

// progressOf says how far a rebuild is.
func progressOf(m *client.Meter) string {
	switch {
	case m.Rebuild == nil:
		return "nothing is missing"
	case m.Complete:
		return fmt.Sprintf("done, %s read", plural(m.Rebuild.Events, "event"))
	case m.Rebuild.Phase == "waiting":
		return "noted; it goes on when the store has what was accepted"
	}
	return fmt.Sprintf("under way, %s of %s events read", thousands(m.Rebuild.Done), thousands(m.Rebuild.Events))
}

// pastOf says in a word or two what a meter has counted of the time before it was there.
func pastOf(m client.Meter) string {
	switch {
	case m.Complete:
		return "complete"
	case m.Rebuild != nil && m.Rebuild.Phase != "done":
		return fmt.Sprintf("%d%% rebuilt", 100*m.Rebuild.Done/max(m.Rebuild.Events, 1))
	case m.Since.IsZero():
		return ""
	}
	return "from " + m.Since.UTC().Format("2006-01-02 15:04")
}
