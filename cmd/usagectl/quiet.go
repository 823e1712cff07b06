package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"

	"usaged/client"
)

const quietHelp = `Plan a quiet time, in which fewer events are no cause for concern: it is left out of the score, of the alerts about activity and of what later weeks are compared with. What comes again belongs into the file of the daemon's --quiet.file.`

// quietCommand plans and ends quiet times.
type quietCommand struct {
	from, until, reason string
	types               []string
	ids                 []string
}

func addQuiet(app *kingpin.Application, _ *session, commands map[string]command) {
	group := app.Command("quiet", "Plan, list and end quiet times. Plain `quiet --until=…` is `quiet plan`.")
	c := &quietCommand{}
	cmd := group.Command("plan", quietHelp).Default()
	cmd.Flag("until", "When it ends: a time (2026-12-27T06:00:00Z; 2026-12-27 06:00 and 18:00 by the clock of this machine), or so far from now (90m, 3d).").
		Required().PlaceHolder("TIME").StringVar(&c.until)
	cmd.Flag("from", "When it begins, in the same forms; by default now.").PlaceHolder("TIME").StringVar(&c.from)
	cmd.Flag("type", "The event type. Repeatable; by default all.").PlaceHolder("EVENT_TYPE").StringsVar(&c.types)
	cmd.Flag("reason", "Why, for those who look.").StringVar(&c.reason)
	commands[cmd.FullCommand()] = c.plan

	cmd = group.Command("list", "List the quiet times that last or are to come.")
	commands[cmd.FullCommand()] = listQuiet

	cmd = group.Command("end", "End quiet times, also ones that are to come.")
	cmd.Arg("id", "The quiet time, as list shows it.").Required().StringsVar(&c.ids)
	commands[cmd.FullCommand()] = c.end
}

func (c *quietCommand) plan(ctx context.Context, s *session) error {
	until, err := parseMoment(s, "until", c.until)
	if err != nil {
		return err
	}
	ask := client.Quiet{Until: until, Types: c.types, Reason: c.reason}
	if c.from != "" {
		from, err := parseMoment(s, "from", c.from)
		if err != nil {
			return err
		}
		ask.From = &from
	}
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	made, err := api.PlanQuiet(ctx, ask)
	if err != nil {
		return err
	}
	if s.json() {
		return printJSON(s, made)
	}
	return quietTable([]client.Quiet{*made}).write(s.stdout)
}

func listQuiet(ctx context.Context, s *session) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	if s.json() {
		return passJSON(ctx, s, api, client.QuietPath, nil)
	}
	list, err := api.QuietTimes(ctx)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(s.stdout, "no quiet time is planned")
		return err
	}
	t := quietTable(list)
	t.width = s.columns()
	return t.write(s.stdout)
}

func quietTable(list []client.Quiet) *table {
	t := newTable("ID", "FROM", "UNTIL", "NOW", "EVENT TYPES", "REASON")
	for _, q := range list {
		id, from, now, types := fmt.Sprintf("line %d", q.Line), "", "", "all"
		if q.ID != nil {
			id = *q.ID
		}
		if q.From != nil {
			from = q.From.Format(time.RFC3339)
		}
		if q.Active {
			now = "quiet"
		}
		if len(q.Types) > 0 {
			types = strings.Join(q.Types, ", ")
		}
		if q.Weekly {
			id += ", weekly"
		}
		t.add(id, from, q.Until.Format(time.RFC3339), now, types, q.Reason)
	}
	return t
}

func (c *quietCommand) end(ctx context.Context, s *session) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	for _, id := range c.ids {
		if err := api.EndQuiet(ctx, id); err != nil {
			return fmt.Errorf("%s: %w", printable(id), err)
		}
		if !s.json() {
			fmt.Fprintf(s.stdout, "ended %s\n", printable(id))
		}
	}
	if s.json() {
		return printJSON(s, map[string]any{"ended": c.ids})
	}
	return nil
}

// parseMoment reads a time ahead: of day or of the calendar, by the clock of this machine, or a distance from now.
func parseMoment(s *session, flag, text string) (time.Time, error) {
	now := s.now()
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if d, err := model.ParseDuration(text); err == nil && d > 0 {
		return now.Add(time.Duration(d)), nil
	}
	for _, layout := range []string{"2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	if t, err := time.Parse("15:04", text); err == nil {
		y, m, d := now.Date()
		at := time.Date(y, m, d, t.Hour(), t.Minute(), 0, 0, now.Location())
		if !at.After(now) {
			at = time.Date(y, m, d+1, t.Hour(), t.Minute(), 0, 0, now.Location())
		}
		return at, nil
	}
	return time.Time{}, usagef("--%s: %q is no time: give one as 2026-12-27T06:00:00Z, 2026-12-27 06:00, 18:00, 90m or 3d", flag, text)
}
