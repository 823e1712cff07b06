package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

const freeHelp = `Give the room of a label's value to others, as that of an event type which somebody invented. Its counter stays, and further events are counted by its name. Of several replicas each has its own labels.`

func addLabels(app *kingpin.Application, _ *session, commands map[string]command) {
	group := app.Command("labels", "Show which values the labels of usage metrics have, and free their room. Plain `labels` is `labels list`.")
	cmd := group.Command("list", "Show the labels, how much room is taken, and by which values.").Default()
	commands[cmd.FullCommand()] = func(ctx context.Context, s *session) error {
		return printLabels(ctx, s, (*client.Client).Labels)
	}
	cmd = group.Command("free", freeHelp)
	names := cmd.Arg("name", "A value, as `labels list` shows it. Several are freed one after the other.").Required().Strings()
	commands[cmd.FullCommand()] = func(ctx context.Context, s *session) error {
		return printLabels(ctx, s, func(api *client.Client, ctx context.Context) (labels *client.Labels, err error) {
			for _, name := range *names {
				if labels, err = api.FreeLabel(ctx, name); err != nil {
					return nil, fmt.Errorf("free %q: %w", name, err)
				}
			}
			return labels, nil
		})
	}
}

// printLabels asks the daemon for its labels in one of two ways, and prints the answer.
func printLabels(ctx context.Context, s *session, ask func(*client.Client, context.Context) (*client.Labels, error)) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	answer, err := ask(api, ctx)
	if err != nil {
		return err
	}
	if s.json() {
		return printJSON(s, answer)
	}
	for _, l := range answer.Labels {
		if _, err := fmt.Fprintf(s.stdout, "%s: %d of %d\n", printable(l.Label), l.Used, l.Limit); err != nil {
			return err
		}
		for _, value := range l.Values {
			note := ""
			if slices.Contains(l.Freed, value) {
				note = "  (freed)"
			}
			if _, err := fmt.Fprintf(s.stdout, "  %s%s\n", printable(value), note); err != nil {
				return err
			}
		}
	}
	return nil
}
