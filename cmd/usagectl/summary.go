package main

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

// summaryCommand shows events per type and user.
type summaryCommand struct {
	query client.Query
}

func addSummary(app *kingpin.Application, _ *session, commands map[string]command) {
	c := &summaryCommand{}
	cmd := app.Command("summary", "Show how many events of each type each user sent.")
	addDays(cmd, &c.query)
	cmd.Flag("type", "Only this event type.").HintOptions(kindNames()...).StringVar(&c.query.EventType)
	cmd.Flag("user", "Only this user.").StringVar(&c.query.UserID)
	cmd.Flag("top", "The busiest users of each type; 0 is all of them.").Default("10").IntVar(&c.query.Top)
	commands[cmd.FullCommand()] = c.run
}

// defaultDays is the window of the daemon where it is asked for none.
const defaultDays = 7

// addDays adds --days. Where it is not given the daemon chooses, which may keep fewer days.
func addDays(cmd *kingpin.CmdClause, q *client.Query) {
	cmd.Flag("days", "Today (UTC) and the days before it; by default 7, or as many as the daemon keeps.").SetValue((*daysFlag)(&q.Days))
}

// daysFlag is a number of days; 0 where it is not given.
type daysFlag int

func (d *daysFlag) String() string { return "" }

func (d *daysFlag) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number of days", text)
	}
	*d = daysFlag(n)
	return nil
}

func checkTop(q client.Query) error {
	if q.Top < 0 {
		return usagef("--top must not be negative")
	}
	return nil
}

func (c *summaryCommand) run(ctx context.Context, s *session) error {
	if err := checkTop(c.query); err != nil {
		return err
	}
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	if s.json() {
		return passJSON(ctx, s, api, client.SummaryPath, c.query.Values())
	}
	if s.csv() {
		return passCSV(ctx, s, api, client.SummaryPath, c.query.Values())
	}
	summary, err := api.Summary(ctx, c.query)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "%s, generated %s\n", window(summary.From, summary.To, summary.Days), summary.GeneratedAt.Format(time.RFC3339))
	t := newTable("EVENT TYPE", "USER", ">EVENTS")
	for _, typ := range slices.Sorted(maps.Keys(summary.Types)) {
		for _, total := range summary.Types[typ] {
			t.add(typ, total.Key, thousands(total.N))
		}
	}
	defer notePending(ctx, s, api)
	if len(t.rows) == 1 {
		_, err := fmt.Fprintln(s.stdout, "no events")
		return err
	}
	return t.write(s.stdout)
}

// pendingPatience is how long a table waits to learn what is not in it yet.
const pendingPatience = 2 * time.Second

// notePending says on standard error how many accepted events are not counted yet, as right after an import. Where that cannot be learnt
// the table stands for itself.
func notePending(ctx context.Context, s *session, api *client.Client) {
	ctx, cancel := context.WithTimeout(ctx, pendingPatience)
	defer cancel()
	ledger, err := api.Ledger(ctx)
	if err != nil || ledger.All.Pending == 0 {
		return
	}
	fmt.Fprintf(s.stderr, "%s accepted events are not counted yet, and not in these figures: ask again in a moment\n", thousands(ledger.All.Pending))
}

func window(from, to string, days int) string {
	if days == 1 {
		return to + " (today, UTC)"
	}
	return fmt.Sprintf("%s to %s (%d days, UTC)", from, to, days)
}

// passJSON prints the daemon's answer as it is.
func passJSON(ctx context.Context, s *session, api *client.Client, path string, query url.Values) error {
	answer, err := api.Get(ctx, path, query, "")
	if err != nil {
		return err
	}
	body := answer.Body
	if len(body) == 0 || body[len(body)-1] != '\n' {
		body = append(body, '\n')
	}
	_, err = s.stdout.Write(body)
	return err
}

// passCSV prints the daemon's answer as CSV.
func passCSV(ctx context.Context, s *session, api *client.Client, path string, query url.Values) error {
	answer, err := api.GetAs(ctx, path, query, "text/csv")
	if err != nil {
		return err
	}
	_, err = s.stdout.Write(answer.Body)
	return err
}

// days names a window in a heading.
func days(n int) string {
	if n == 1 {
		return "today (UTC)"
	}
	return "the last " + strconv.Itoa(n) + " days (UTC)"
}
