package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

// meterCommand shows the largest keys of a meter.
type meterCommand struct {
	name  string
	query client.Query
	// Headings of the table: of the number, and of the references. Empty ones are found out.
	number, reference string
	by                string // the dimension that the meter prefers
}

// builtinMeters are the meters with a command of their own.
var builtinMeters = []struct {
	command, help string
	meter         meterCommand
}{
	{"queries", "Show the most frequent questions of sql_generation and sql_execution events.",
		meterCommand{name: "queries", number: "QUERIES", reference: "QUESTION", by: "reference"}},
	{"dashboards", "Show the dashboards that were published most often.",
		meterCommand{name: "dashboards", number: "PUBLICATIONS", reference: "DASHBOARD", by: "reference"}},
	{"tokens", "Show who spent the most LLM tokens, or which models (the meter llm-tokens).",
		meterCommand{name: "llm-tokens", number: "TOKENS", reference: "MODEL", by: "user"}},
	{"users", "Show the users with the most events of all types.",
		meterCommand{name: "users", number: "EVENTS", by: "user"}},
}

func addMeters(app *kingpin.Application, s *session, commands map[string]command) {
	for _, m := range builtinMeters {
		c := m.meter
		cmd := app.Command(m.command, m.help)
		c.addFlags(cmd, c.reference != "")
		commands[cmd.FullCommand()] = c.run
	}
	meters := app.Command("meters", "List the meters, those of the operator too, or show the largest keys of one.")
	list := meters.Command("list", "List the meters with what they count.").Default()
	commands[list.FullCommand()] = listMeters
	c := &meterCommand{}
	show := meters.Command("show", "Show the largest keys of any meter.")
	show.Arg("name", "The meter, as `meters list` names it.").Required().HintAction(s.meterNames).StringVar(&c.name)
	c.addFlags(show, true)
	commands[show.FullCommand()] = c.run
	addRebuild(meters, s, commands)
}

func (c *meterCommand) addFlags(cmd *kingpin.CmdClause, references bool) {
	addDays(cmd, &c.query)
	cmd.Flag("top", "The largest; 0 is all of them.").Short('n').Default("10").IntVar(&c.query.Top)
	if references {
		cmd.Flag("by", "user or reference (question, dashboard, model …); otherwise the one that the meter prefers.").
			EnumVar(&c.query.By, "user", "reference")
	}
}

func (c *meterCommand) run(ctx context.Context, s *session) error {
	if err := checkTop(c.query); err != nil {
		return err
	}
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	switch {
	case s.json():
		return passJSON(ctx, s, api, client.MeterPath(c.name), c.query.Values())
	case s.csv():
		return passCSV(ctx, s, api, client.MeterPath(c.name), c.query.Values())
	}
	totals, err := api.Meter(ctx, c.name, c.query)
	if err != nil {
		return err
	}
	if c.number == "" {
		if err := c.describe(ctx, api); err != nil {
			return err
		}
	}
	defer notePending(ctx, s, api)
	return c.print(s, totals)
}

// describe finds the headings of a meter that the tool does not know.
func (c *meterCommand) describe(ctx context.Context, api *client.Client) error {
	list, err := api.Meters(ctx)
	if err != nil {
		return fmt.Errorf("list the meters: %w", err)
	}
	i := slices.IndexFunc(list, func(m client.Meter) bool { return m.Name == c.name })
	if i < 0 {
		return fmt.Errorf("%s: the daemon answered for this meter and does not list it: was it reloaded just now?", c.name)
	}
	c.number, c.reference, c.by = "TOTAL", strings.ToUpper(list[i].Reference), cmp.Or(list[i].By, "user")
	return nil
}

func (c *meterCommand) print(s *session, totals client.Totals) error {
	key := "USER"
	if cmp.Or(c.query.By, c.by) == "reference" {
		key = c.reference
	}
	fmt.Fprintf(s.stdout, "%s, %s\n", printable(c.name), days(cmp.Or(c.query.Days, defaultDays)))
	if len(totals) == 0 {
		_, err := fmt.Fprintln(s.stdout, "nothing was counted")
		return err
	}
	t := totalsTable(printable(key), ">"+c.number, totals)
	t.width = s.columns()
	return t.write(s.stdout)
}

func listMeters(ctx context.Context, s *session) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	if s.json() {
		return passJSON(ctx, s, api, client.MetersPath, nil)
	}
	list, err := api.Meters(ctx)
	if err != nil {
		return err
	}
	t := newTable("METER", "READS", "ADDS UP", "BY", "PAST", "DESCRIPTION")
	for _, m := range list {
		t.add(m.Name, cmp.Or(strings.Join(m.Events, ", "), "every type"), addsUp(m), dimensions(m), pastOf(m), m.Description)
	}
	t.width = s.columns()
	return t.write(s.stdout)
}

// addsUp names what a meter counts.
func addsUp(m client.Meter) string {
	sum := strings.Join(m.Sum, " + ")
	switch {
	case m.Value != "" && sum != "":
		return m.Value + " or " + sum
	case m.Value == "" && sum == "":
		return "events"
	}
	return m.Value + sum
}

// dimensions names those of a meter, the preferred one first.
func dimensions(m client.Meter) string {
	switch {
	case m.Reference == "":
		return "user"
	case m.By == "reference":
		return m.Reference + ", user"
	}
	return "user, " + m.Reference
}

// meterNames completes the name of a meter. It says nothing where no daemon answers.
func (s *session) meterNames() []string {
	ctx, cancel := context.WithTimeout(context.Background(), hintTimeout)
	defer cancel()
	api, err := s.client(reading)
	if err != nil {
		return nil
	}
	defer api.Close()
	list, err := api.Meters(ctx)
	if _, refused := errors.AsType[*client.Problem](err); refused || err != nil {
		return nil
	}
	var names []string
	for _, m := range list {
		names = append(names, m.Name)
	}
	return names
}
