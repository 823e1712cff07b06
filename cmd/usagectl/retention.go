package main

import (
	"context"
	"fmt"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

const applyRetentionHelp = `Have the daemon delete within a minute what is beyond a lowered --retention.days, instead of a day after it was lowered. To keep it, start the daemon with as many days as before.`

func addRetention(app *kingpin.Application, _ *session, commands map[string]command) {
	group := app.Command("retention", "Show for how many days the daemon keeps what it has counted, and what will be deleted. Plain `retention` is `retention show`.")
	cmd := group.Command("show", "Show for how many days it keeps what it has counted, and what will be deleted because --retention.days was lowered.").Default()
	commands[cmd.FullCommand()] = func(ctx context.Context, s *session) error {
		return printRetention(ctx, s, (*client.Client).Retention)
	}
	cmd = group.Command("apply", applyRetentionHelp)
	commands[cmd.FullCommand()] = func(ctx context.Context, s *session) error {
		return printRetention(ctx, s, (*client.Client).ApplyRetention)
	}
}

// printRetention asks the daemon in one of two ways, and prints the answer.
func printRetention(ctx context.Context, s *session, ask func(*client.Client, context.Context) (*client.Retention, error)) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	r, err := ask(api, ctx)
	if err != nil {
		return err
	}
	if s.json() {
		return printJSON(s, r)
	}
	if r.Pending == nil {
		_, err := fmt.Fprintf(s.stdout, "%s can be asked for and are kept\n", plural(uint64(r.Days), "day"))
		return err
	}
	_, err = fmt.Fprintf(s.stdout, "%s can be asked for, and %d are kept until %s; then %s\nto keep it start the daemon with --retention.days=%d; to have it deleted now run `usagectl retention apply`\n",
		plural(uint64(r.Days), "day"), r.KeptDays, r.Pending.Due.Format(time.RFC3339), lossOf(r.Pending), r.KeptDays)
	return err
}

// lossOf says what will be deleted.
func lossOf(e *client.ExpiringDays) string {
	raw := plural(e.RawEvents, "raw event") + " of the journal will be deleted"
	if e.From == "" {
		return raw
	}
	return fmt.Sprintf("the days from %s to %s with %s and %s", e.From, e.To, plural(e.Events, "event"), raw)
}
