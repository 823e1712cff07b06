package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

// topCommand shows who and what is busiest.
type topCommand struct {
	days     int
	n        int
	meter    string
	by       string
	watch    bool
	interval time.Duration
}

func addTop(app *kingpin.Application, s *session, commands map[string]command) {
	c := &topCommand{}
	cmd := app.Command("top", "Show the busiest users and event types, or the largest keys of a meter.")
	cmd.Flag("days", "Today (UTC) and the days before it.").Default("1").SetValue((*daysFlag)(&c.days))
	cmd.Flag("top", "How many of each.").Short('n').Default("10").IntVar(&c.n)
	cmd.Flag("meter", "A meter instead, such as users, queries, dashboards or llm-tokens.").PlaceHolder("NAME").
		HintAction(s.meterNames).StringVar(&c.meter)
	cmd.Flag("by", "The meter's dimension: user or reference; otherwise the one that the meter prefers.").EnumVar(&c.by, "user", "reference")
	cmd.Flag("watch", "Show it again and again until interrupted.").Short('w').BoolVar(&c.watch)
	cmd.Flag("interval", "Pause between two looks of --watch.").Default("2s").DurationVar(&c.interval)
	commands[cmd.FullCommand()] = c.run
}

func (c *topCommand) check(s *session) error {
	switch {
	case c.n < 1:
		return usagef("--top must be positive")
	case c.by != "" && c.meter == "":
		return usagef("--by goes with --meter")
	case c.watch && (s.json() || !isTerminal(s.stdout)):
		return usagef("--watch is for people: it needs a terminal and --output=table")
	case c.watch && c.interval < 100*time.Millisecond:
		return usagef("--interval must be at least 100ms")
	}
	return nil
}

func (c *topCommand) run(ctx context.Context, s *session) error {
	if err := c.check(s); err != nil {
		return err
	}
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	if !c.watch {
		return c.show(ctx, s, api, s.stdout)
	}
	return c.follow(ctx, s, api)
}

// follow shows it until interrupted, which is how it is meant to end.
func (c *topCommand) follow(ctx context.Context, s *session, api *client.Client) error {
	const home, clearBelow = "\x1b[H", "\x1b[J"
	fmt.Fprint(s.stdout, "\x1b[2J")
	for {
		var screen bytes.Buffer
		if err := c.show(ctx, s, api, &screen); err != nil && ctx.Err() == nil {
			fmt.Fprintf(&screen, "%s\n", s.explain(err))
		}
		text := bytes.ReplaceAll(screen.Bytes(), []byte("\n"), []byte("\x1b[K\n")) // clears what a longer line left
		if _, err := fmt.Fprintf(s.stdout, "%s%s%s", home, text, clearBelow); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.interval):
		}
	}
}

func (c *topCommand) show(ctx context.Context, s *session, api *client.Client, w io.Writer) error {
	if c.meter != "" {
		return c.showMeter(ctx, s, api, w)
	}
	users, err := api.Meter(ctx, "users", client.Query{Days: c.days, Top: c.n})
	if err != nil {
		return err
	}
	daily, err := api.Daily(ctx, client.Query{Days: c.days})
	if err != nil {
		return err
	}
	types := busiestTypes(daily, c.n)
	if s.json() {
		return printJSON(s, map[string]any{"days": c.days, "users": entries(users), "event_types": entries(types)})
	}
	fmt.Fprintf(w, "Busiest, %s\n\n", days(c.days))
	if err := totalsTable("EVENT TYPE", ">EVENTS", types).write(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return totalsTable("USER", ">EVENTS", users).write(w)
}

func (c *topCommand) showMeter(ctx context.Context, s *session, api *client.Client, w io.Writer) error {
	q := client.Query{Days: c.days, Top: c.n, By: c.by}
	if s.json() {
		return passJSON(ctx, s, api, client.MeterPath(c.meter), q.Values())
	}
	totals, err := api.Meter(ctx, c.meter, q)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s, %s\n\n", printable(c.meter), days(c.days))
	return totalsTable("KEY", ">TOTAL", totals).write(w)
}

// busiestTypes adds up the days.
func busiestTypes(daily *client.Daily, n int) client.Totals {
	sums := map[string]uint64{}
	for _, types := range daily.Days {
		for name, count := range types {
			sums[name] += count
		}
	}
	var totals client.Totals
	for name, count := range sums {
		totals = append(totals, client.Total{Key: name, N: count})
	}
	slices.SortFunc(totals, func(a, b client.Total) int {
		return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Key, b.Key))
	})
	return totals[:min(n, len(totals))]
}

func totalsTable(key, number string, totals client.Totals) *table {
	t := newTable(number, key)
	for _, total := range totals {
		t.add(thousands(total.N), total.Key)
	}
	return t
}

// entry is a total in JSON output, where order matters.
type entry struct {
	Key string `json:"key"`
	N   uint64 `json:"events"`
}

func entries(totals client.Totals) []entry {
	list := make([]entry, len(totals))
	for i, t := range totals {
		list[i] = entry(t)
	}
	return list
}
