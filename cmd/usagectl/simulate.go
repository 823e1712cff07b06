package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

const simulateHelp = `Send made-up traffic of all known types, so that there is something to look at: so many days back, and with --live on from now.

There are working days and weekends, office hours and night jobs, a few busy users and many others, models with their tokens, policies, and one failure in 200.

The same --seed, --users and --events-per-day make the same events with the same ids for each minute, whenever it is called. Repeated within 24 hours it adds only what has happened since; later the daemon counts everything again.`

// simulateCommand holds the flags of simulate.
type simulateCommand struct {
	days     int
	live     bool
	rate     float64
	seed     uint64
	users    int
	perDay   float64
	scenario scenario
	last     time.Duration
	factor   float64
	batch    int
	patience time.Duration
	wait     bool
	dryRun   bool
}

func addSimulate(app *kingpin.Application, _ *session, commands map[string]command) {
	c := &simulateCommand{}
	cmd := app.Command("simulate", simulateHelp)
	cmd.Flag("days", "How far back: today (UTC) and the days before it, at most the daemon's retention. 0, with --live: nothing.").
		Default("30").IntVar(&c.days)
	cmd.Flag("live", "Go on from now, until interrupted.").BoolVar(&c.live)
	cmd.Flag("rate", "Average events per hour with --live. Default: --events-per-day / 24.").PlaceHolder("N").
		Float64Var(&c.rate)
	cmd.Flag("seed", "Another seed makes other events.").Default("1").Uint64Var(&c.seed)
	cmd.Flag("users", "How many people there are.").Default("60").IntVar(&c.users)
	cmd.Flag("events-per-day", "On the average of a week.").Default("2000").Float64Var(&c.perDay)
	cmd.Flag("scenario", "What happens in the last hours, and goes on with --live: steady is nothing, drop loses a part of one type's events, "+
		"failures makes a part of all events fail, outage has none at all.").Default(steady).
		EnumVar(&c.scenario.name, steady, scenarioDrop, scenarioFail, scenarioOutage)
	cmd.Flag("last", "Since when: so long before the beginning of this hour.").Default("6h").DurationVar(&c.last)
	cmd.Flag("factor", "Share of events to drop (default 0.7) or to mark as failed (default 0.3).").PlaceHolder("SHARE").
		Default("-1").Float64Var(&c.factor)
	cmd.Flag("type", "The event type that drop concerns.").Default("sql_execution").EnumVar(&c.scenario.kind, kindNames()...)
	cmd.Flag("batch", "Events in a request.").Default("1000").IntVar(&c.batch)
	cmd.Flag("retry-for", "How long to try again while the daemon is overloaded or restarting.").Default("1m").DurationVar(&c.patience)
	cmd.Flag("wait", "Wait until the events of the days back are counted.").BoolVar(&c.wait)
	cmd.Flag("dry-run", "Print the events instead of sending them.").BoolVar(&c.dryRun)
	commands[cmd.FullCommand()] = c.run
}

func (c *simulateCommand) check(now time.Time) error {
	const maxPerDay, maxPerHour, maxUsers = 240e6, 10e6, 1e6
	positive := func(n, most float64) bool { return n > 0 && n <= most } // false for NaN too
	switch {
	case c.days < 0 || c.days == 0 && !c.live:
		return usagef("--days must be positive, or 0 with --live")
	case !positive(c.perDay, maxPerDay):
		return usagef("--events-per-day must be more than 0 and at most %d", int(maxPerDay))
	case c.rate != 0 && !positive(c.rate, maxPerHour):
		return usagef("--rate must be more than 0 and at most %d", int(maxPerHour))
	case c.rate != 0 && !c.live:
		return usagef("--rate goes with --live; for the days back there is --events-per-day")
	case c.users < 1 || c.users > maxUsers:
		return usagef("--users must be 1 to %d", int(maxUsers))
	case c.last < 0:
		return usagef("--last must not be negative")
	case c.factor != -1 && !(c.factor >= 0 && c.factor <= 1):
		return usagef("--factor must be 0 to 1")
	case c.batch < 1 || c.batch > maxSimulateBatch:
		return usagef("--batch must be 1 to %d", maxSimulateBatch)
	case c.dryRun && c.wait:
		return usagef("--wait has nothing to wait for with --dry-run")
	}
	c.scenario.from = now.Truncate(time.Hour).Add(-c.last)
	if c.scenario.name != scenarioDrop {
		c.scenario.kind = ""
	}
	if c.scenario.factor = c.factor; c.factor == -1 {
		c.scenario.factor = map[string]float64{scenarioDrop: 0.7, scenarioFail: 0.3}[c.scenario.name]
	}
	return nil
}

// maxSimulateBatch keeps a request well below what the daemon takes.
const maxSimulateBatch = 5000

func (c *simulateCommand) run(ctx context.Context, s *session) error {
	now := s.now().UTC()
	if err := c.check(now); err != nil {
		return err
	}
	sim := &simulation{flags: c, session: s, report: simulateReport{Seed: c.seed, Scenario: c.scenario.name, Types: map[string]int{}}}
	if !c.dryRun {
		if err := s.reach(ctx); err != nil {
			return err
		}
		api, err := s.client(posting, retrying(c.patience))
		if err != nil {
			return err
		}
		defer api.Close()
		sim.api = api
	}
	err := sim.back(ctx, now)
	if err == nil && c.wait {
		err = awaitCounted(ctx, s)
	}
	if err == nil && c.live {
		err = sim.forward(ctx, now)
	}
	return errors.Join(sim.print(), err)
}

// simulation sends traffic.
type simulation struct {
	flags   *simulateCommand
	session *session
	api     *client.Client // nil in a dry run

	batch  []byte
	n      int // events in batch
	types  map[string]int
	report simulateReport
}

// simulateReport is what was sent.
type simulateReport struct {
	Seed     uint64         `json:"seed"`
	Scenario string         `json:"scenario"`
	From     time.Time      `json:"from"`
	Events   int            `json:"events"`
	Types    map[string]int `json:"event_types"`
	Seconds  float64        `json:"seconds"`
}

// back sends the days before now.
func (sim *simulation) back(ctx context.Context, now time.Time) error {
	c, start := sim.flags, time.Now()
	sim.report.From = now
	if c.days == 0 {
		return nil
	}
	from := now.Truncate(day).AddDate(0, 0, 1-c.days)
	sim.report.From = from
	t := newTraffic(c.seed, c.users, c.perDay, c.scenario)
	bar := newProgress(sim.session.stderr, int64(t.expected(from, now)))
	defer bar.stop()
	for e := range t.between(from, now) {
		if err := sim.add(e); err != nil {
			return err
		}
		if sim.n < c.batch {
			continue
		}
		bar.step(sim.n)
		bar.events(sim.n)
		if err := sim.flush(ctx); err != nil {
			return err
		}
	}
	err := sim.flush(ctx)
	sim.report.Seconds = time.Since(start).Seconds()
	return err
}

// forward sends events as they happen, until interrupted, which is how it is meant to end.
func (sim *simulation) forward(ctx context.Context, from time.Time) error {
	c := sim.flags
	perDay := c.perDay
	if c.rate != 0 {
		perDay = c.rate * 24
	}
	fmt.Fprintf(sim.session.stderr, "live, with %s events a day on the average of a week; interrupt it to end\n",
		thousands(uint64(math.Round(perDay))))
	t := newTraffic(c.seed, c.users, perDay, c.scenario)
	if err := sim.live(ctx, t, from); ctx.Err() == nil {
		return err
	}
	return nil
}

// liveInterval is the shortest pause between two requests.
const liveInterval = 200 * time.Millisecond

func (sim *simulation) live(ctx context.Context, t *traffic, from time.Time) error {
	for hour := from.Truncate(time.Hour); ; hour = hour.Add(time.Hour) {
		for e := range t.between(later(from, hour), hour.Add(time.Hour)) {
			if err := sim.await(ctx, e.CreatedAt); err != nil {
				return err
			}
			if err := sim.add(e); err != nil {
				return err
			}
		}
		if err := sim.flush(ctx); err != nil {
			return err
		}
		if err := sim.until(ctx, hour.Add(time.Hour)); err != nil {
			return err
		}
	}
}

// await waits until an event has happened. What has happened before is sent first.
func (sim *simulation) await(ctx context.Context, t time.Time) error {
	due := !t.After(sim.session.now())
	if due && sim.n < sim.flags.batch {
		return nil
	}
	if sim.n > 0 {
		if err := sim.flush(ctx); err != nil {
			return err
		}
		if !due {
			t = later(t, sim.session.now().Add(liveInterval))
		}
	}
	return sim.until(ctx, t)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// until waits for a time on the tool's clock.
func (sim *simulation) until(ctx context.Context, t time.Time) error {
	return sleepUntil(ctx, time.Now().Add(t.Sub(sim.session.now())))
}

// add puts an event into the batch.
func (sim *simulation) add(e client.Event) error {
	line, err := encodeLine(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	sim.batch = append(sim.batch, line...)
	sim.n++
	if sim.types == nil {
		sim.types = map[string]int{}
	}
	sim.types[e.Type]++
	return nil
}

// flush sends the batch, or prints it.
func (sim *simulation) flush(ctx context.Context) error {
	if sim.n == 0 {
		return nil
	}
	if sim.api == nil {
		if _, err := sim.session.stdout.Write(sim.batch); err != nil {
			return fmt.Errorf("print events: %w", err)
		}
	} else if _, err := sim.api.Post(ctx, sim.batch); err != nil {
		return sim.explain(err)
	}
	sim.report.Events += sim.n
	for name, n := range sim.types {
		sim.report.Types[name] += n
	}
	sim.batch, sim.n, sim.types = sim.batch[:0], 0, nil
	return nil
}

func (sim *simulation) explain(err error) error {
	problem, ok := errors.AsType[*client.Problem](err)
	if ok && slices.ContainsFunc(problem.Errors, func(f client.Fault) bool { return f.Code == "expired" }) {
		return fmt.Errorf("the daemon keeps fewer than %d days: give a smaller --days (its --retention.days says how many): %w", sim.flags.days, err)
	}
	return err
}

// print writes what was sent: to standard error in a dry run, whose standard output is the events.
func (sim *simulation) print() error {
	w, r := sim.session.stdout, &sim.report
	if sim.flags.dryRun {
		w = sim.session.stderr
	}
	if sim.session.json() {
		out := *sim.session
		out.process = &process{stdout: w}
		return printJSON(&out, r)
	}
	t := newTable("EVENT TYPE", ">EVENTS")
	for _, name := range slices.Sorted(maps.Keys(r.Types)) {
		t.add(name, thousands(uint64(r.Types[name])))
	}
	t.add("all", thousands(uint64(r.Events)))
	fmt.Fprintf(w, "simulated since %s\n", r.From.Format(time.RFC3339))
	return t.write(w)
}
