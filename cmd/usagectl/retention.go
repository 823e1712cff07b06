package main

import (
	"context"
	"fmt"
	"strings"
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
	_, err = fmt.Fprint(s.stdout, keptText(r)+restoredText(r.Restored))
	return err
}

// keptText says how many days are kept, and what will be deleted.
func keptText(r *client.Retention) string {
	days := plural(uint64(r.Days), "day")
	switch {
	case r.Pending == nil:
		return days + " can be asked for and are kept\n"
	case r.KeptUnknown:
		return fmt.Sprintf("%s can be asked for; it is not known how many were kept before, so everything is kept until %s; then %s\n"+
			"to keep it start the daemon with --retention.days=N, as many days as before; to have it deleted now run `usagectl retention apply`\n",
			days, r.Pending.Due.Format(time.RFC3339), lossOf(r.Pending))
	}
	return fmt.Sprintf("%s can be asked for, and %d are kept until %s; then %s\n"+
		"to keep it start the daemon with --retention.days=%d; to have it deleted now run `usagectl retention apply`\n",
		days, r.KeptDays, r.Pending.Due.Format(time.RFC3339), lossOf(r.Pending), r.KeptDays)
}

// restoredText says how far the days are that are counted again, nothing where there are none.
func restoredText(r *client.RestoredDays) string {
	if r == nil {
		return ""
	}
	text := fmt.Sprintf("%s from %s to %s had been deleted while fewer were kept, and ", plural(uint64(r.Days), "day"), r.From, r.To)
	switch r.Phase {
	case "done":
		text += "have been counted again from the journal\n"
	case "running":
		text += fmt.Sprintf("are counted again from the journal: %s of %s read\n", thousands(r.Done), plural(r.Events, "event"))
	default:
		text += "will be counted again from the journal, when the store has what was accepted before\n"
	}
	if len(r.Incomplete) > 0 {
		text += fmt.Sprintf("%s may lack events that have left the journal, or that another replica has not counted again: %s\n",
			plural(uint64(len(r.Incomplete)), "day"), strings.Join(r.Incomplete, ", "))
	}
	return text
}

// lossOf says what will be deleted.
func lossOf(e *client.ExpiringDays) string {
	raw := plural(e.RawEvents, "raw event") + " of the journal will be deleted"
	if e.From == "" {
		return raw
	}
	return fmt.Sprintf("the days from %s to %s with %s and %s", e.From, e.To, plural(e.Events, "event"), raw)
}
