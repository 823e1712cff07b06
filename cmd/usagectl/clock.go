package main

import (
	"context"
	"fmt"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

const acceptHelp = `Make what the wall clock of the daemon's machine says the time by which events are stamped and old data is deleted. Look at it first: what is older than the retention by the new time is deleted within a minute.`

func addClock(app *kingpin.Application, _ *session, commands map[string]command) {
	group := app.Command("clock", "Show the time by which the daemon stamps events and deletes old data, and accept a wall clock that has jumped. Plain `clock` is `clock show`.")
	cmd := group.Command("show", "Show the time, and whether the wall clock of the daemon's machine has jumped.").Default()
	commands[cmd.FullCommand()] = func(ctx context.Context, s *session) error {
		return printClock(ctx, s, (*client.Client).Clock)
	}
	cmd = group.Command("accept", acceptHelp)
	commands[cmd.FullCommand()] = func(ctx context.Context, s *session) error {
		return printClock(ctx, s, (*client.Client).AcceptClock)
	}
}

// printClock asks the daemon for its clock in one of two ways, and prints the answer.
func printClock(ctx context.Context, s *session, ask func(*client.Client, context.Context) (*client.Clock, error)) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	c, err := ask(api, ctx)
	if err != nil {
		return err
	}
	if s.json() {
		return printJSON(s, c)
	}
	if _, err := fmt.Fprintf(s.stdout, "the time is       %s\nthe wall clock is %s, %s\n",
		c.Time.Format(time.RFC3339), c.Wall.Format(time.RFC3339), jumpOf(c)); err != nil {
		return err
	}
	if behind := c.Time.Sub(c.Deletion); behind > 0 {
		_, err = fmt.Fprintf(s.stdout, "old data is kept for %s longer, until the wall clock has been right for a day: the daemon cannot know for how long it was off\n",
			shortly(behind))
	}
	return err
}

// jumpOf says how far the wall clock is off.
func jumpOf(c *client.Clock) string {
	jump := time.Duration(c.JumpSeconds * float64(time.Second))
	switch {
	case jump > 0:
		return shortly(jump) + " ahead, because it has jumped: set it right, or run `usagectl clock accept` if it is right now"
	case jump < 0:
		return shortly(-jump) + " behind, because it has jumped: set it right, or run `usagectl clock accept` if it is right now"
	}
	return "which is right"
}
