package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/go-json-experiment/json"
	"github.com/prometheus/common/model"

	"usaged/client"
)

func addHealth(app *kingpin.Application, _ *session, commands map[string]command) {
	group := app.Command("health", "Show the score, the mode and why, of all event types together and of each, and fail where the mode of all is not normal. Plain `health` is `health show`.")
	cmd := group.Command("show", "Show the score, the mode and why, and fail where the mode of all types together is not normal.").Default()
	commands[cmd.FullCommand()] = showHealth
	c := &acceptCommand{}
	cmd = group.Command("accept", "Accept what is left of an event type, while a drop is told, as its new normal: the alert ends, and that is what is expected from now on.")
	cmd.Arg("type", "The event type.").Required().StringVar(&c.eventType)
	cmd.Flag("reason", "Why, for those who look.").StringVar(&c.reason)
	commands[cmd.FullCommand()] = c.run
}

// acceptCommand accepts a new normal.
type acceptCommand struct{ eventType, reason string }

func (c *acceptCommand) run(ctx context.Context, s *session) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	made, err := api.AcceptNormal(ctx, c.eventType, c.reason)
	if err != nil {
		return err
	}
	if s.json() {
		return printJSON(s, made)
	}
	_, err = fmt.Fprintf(s.stdout, "%s: from now on %.1f%% of what was expected is expected\n", printable(made.EventType), 100*made.Ratio)
	return err
}

func showHealth(ctx context.Context, s *session) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	answer, err := api.Get(ctx, client.HealthPath, nil, "")
	if err != nil {
		return err
	}
	var health client.Health
	if err := json.Unmarshal(answer.Body, &health); err != nil {
		return fmt.Errorf("read the score: %w", err)
	}
	if s.json() {
		_, err = s.stdout.Write(answer.Body)
	} else {
		err = printHealth(s, &health)
	}
	if err == nil && health.Mode != "normal" {
		return errReported // what was printed says all
	}
	return err
}

func printHealth(s *session, health *client.Health) error {
	fmt.Fprintf(s.stdout, "%s, score %s", printable(health.Mode), score(health.Score))
	if health.Since != nil {
		fmt.Fprintf(s.stdout, ", since %s", since(s, *health.Since))
	}
	fmt.Fprintf(s.stdout, "\n%s\n", printable(health.Text))
	if health.EvaluatedAt == nil {
		return nil
	}
	parts := newTable("COMPONENT", ">WEIGHT", ">VALUE", "WHY")
	for _, c := range health.Components {
		parts.add(c.Name, decimals(&c.Value.Weight, 2), decimals(c.Value.Value, 2), c.Value.Text)
	}
	types := newTable("EVENT TYPE", "MODE", ">SCORE", "SINCE", "WHY")
	for _, t := range health.Types {
		began := unknownField
		if t.Value.Since != nil {
			began = since(s, *t.Value.Since)
		}
		types.add(t.Name, t.Value.Mode, score(t.Value.Score), began, t.Value.Text)
	}
	for _, t := range []*table{parts, types} {
		if len(t.rows) == 1 {
			continue
		}
		t.width = s.columns()
		fmt.Fprintln(s.stdout)
		if err := t.write(s.stdout); err != nil {
			return err
		}
	}
	return nil
}

func score(v *float64) string { return decimals(v, 1) }

func decimals(v *float64, digits int) string {
	if v == nil {
		return unknownField
	}
	return strconv.FormatFloat(*v, 'f', digits, 64)
}

// since writes a time with how long ago that was, in minutes.
func since(s *session, t time.Time) string {
	ago := max(0, s.now().Sub(t).Truncate(time.Minute))
	return t.UTC().Format(time.RFC3339) + " (" + model.Duration(ago).String() + ")"
}
