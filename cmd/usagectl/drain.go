package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/aggregator"
	"usaged/aggregator/datadir"
	"usaged/aggregator/store"
	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/sqlite"
	"usaged/client"
)

const drainHelp = `Send the events that a dead daemon has accepted and not counted to a live one. DIR is the dead one's data directory; --url or --data.dir names the live one.

Which events were counted is asked of the store that the dead one used: Redis with --redis.url, otherwise usage.db in DIR. Without --yes nothing is sent, and it says what would be. Ids, users, types, metadata, sources and created_at stay as they are; accepted_at and the token are new.

It may be interrupted and repeated: DIR/drained.json says how far it came, and a batch whose answer was lost goes out again with the same ids, which the live daemon counts once within 24 hours. From the first batch on no daemon starts on DIR, because it would count the events again.

A repetition of an event that another daemon has accepted is recognised within 24 hours of that one's acceptance: drain in time.`

// drainBatch is how many events are sent at a time.
const drainBatch = 5_000

// doubtAfter is how old a batch without an answer may be for the live daemon to recognise its ids: somewhat less than the
// window in which it does.
const doubtAfter = store.DuplicateWindow - time.Hour

// drainCommand holds the flags of journal drain.
type drainCommand struct {
	dir      string
	redis    redisFlags
	all      bool
	yes      bool
	force    bool
	patience time.Duration
}

func addDrain(group *kingpin.CmdClause, s *session, commands map[string]command) {
	c := &drainCommand{}
	cmd := group.Command("drain", drainHelp)
	cmd.Arg("dir", "The data directory of the daemon that is gone.").Required().StringVar(&c.dir)
	c.redis.add(cmd, s)
	cmd.Flag("all", "Send every event that is kept, counted or not: where the store that counted them is gone too.").BoolVar(&c.all)
	cmd.Flag("yes", "Send them.").BoolVar(&c.yes)
	cmd.Flag("force", "Also where a daemon seems to use the producer, and where a batch is in doubt that is too old to be recognised.").BoolVar(&c.force)
	cmd.Flag("retry-for", "How long to try again while the live daemon is overloaded or restarting.").Default("1m").DurationVar(&c.patience)
	commands[cmd.FullCommand()] = c.run
}

// drainReport is what drain found and did.
type drainReport struct {
	Events     uint64            `json:"events"` // to be sent, over all runs
	First      time.Time         `json:"first,omitzero"`
	Last       time.Time         `json:"last,omitzero"`
	Counted    uint64            `json:"counted"`
	Duplicates uint64            `json:"duplicates"`
	Erased     uint64            `json:"erased"`
	Missing    uint64            `json:"missing"`
	Sent       uint64            `json:"sent"`
	Refused    uint64            `json:"refused"`
	Reasons    map[string]uint64 `json:"refused_by_reason,omitempty"`
	Complete   bool              `json:"complete"`
}

func (c *drainCommand) run(ctx context.Context, s *session) (err error) {
	if err := c.redis.check(); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.dir, identityName)); err != nil {
		return fmt.Errorf("%s is not the data directory of a usaged: %w", c.dir, err)
	}
	lock, err := datadir.Acquire(c.dir)
	if errors.Is(err, datadir.ErrInUse) {
		return fmt.Errorf("a daemon runs on %s: it counts its events itself; drain is for one that is gone", c.dir)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	state, err := aggregator.ReadDrain(c.dir)
	if err != nil {
		return err
	}
	remains, err := c.open(ctx)
	if err != nil {
		return err
	}
	sum, err := remains.Each(ctx, remains.End(), nil)
	if err != nil {
		return err
	}
	d := &drain{
		command: c, session: s, state: state,
		report: drainReport{
			Events: sum.Events, First: sum.First, Last: sum.Last, Counted: sum.Counted, Duplicates: sum.Duplicates, Erased: sum.Erased,
			Missing: sum.Missing, Reasons: map[string]uint64{},
		},
	}
	if c.yes {
		err = d.send(ctx, remains)
	}
	d.report.Sent, d.report.Refused, d.report.Complete = state.Sent, state.Refused, !state.Complete.IsZero()
	if err := errors.Join(d.print(), err); err != nil {
		return err
	}
	if c.yes && (state.Refused > 0 || sum.Missing > 0) {
		return errReported // not all that was accepted has arrived
	}
	return nil
}

// open finds the events that are not counted.
func (c *drainCommand) open(ctx context.Context) (*aggregator.Remains, error) {
	database := filepath.Join(c.dir, "usage.db")
	_, err := os.Stat(database)
	switch {
	case c.all:
		partitions, err := aggregator.Partitions(c.dir)
		if err != nil {
			return nil, err
		}
		return aggregator.OpenRemains(ctx, c.dir, max(partitions, 1), nil)
	case c.redis.given():
		return c.openRedis(ctx)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("it cannot be told which events were counted: there is no %s. Name the Redis that the daemon used with --redis.url; "+
			"where the store is gone too, --all sends every event that is kept", database)
	case err != nil:
		return nil, err
	}
	st, err := sqlite.Open(ctx, sqlite.Config{Path: database})
	if err != nil {
		return nil, err
	}
	remains, err := aggregator.OpenRemains(ctx, c.dir, st.Partitions(), st)
	return remains, errors.Join(err, st.Close())
}

func (c *drainCommand) openRedis(ctx context.Context) (_ *aggregator.Remains, err error) {
	in, meta, err := (&producersCommand{redis: c.redis}).connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	id, err := readIdentity(c.dir)
	if err != nil {
		return nil, err
	}
	if err := c.checkQuiet(ctx, in, meta, id.last()); err != nil {
		return nil, err
	}
	cfg := c.redis.cfg
	cfg.Partitions, cfg.Retention = meta.Partitions, 1
	st, err := redis.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return aggregator.OpenRemains(ctx, c.dir, meta.Partitions, st)
}

// checkQuiet refuses a directory of which a copy is in use elsewhere: the lock is of this machine alone.
func (c *drainCommand) checkQuiet(ctx context.Context, in *redis.Inspector, meta *redis.Meta, producer string) error {
	deadline := time.Now().Add(watchFor)
	for !c.force {
		idle, err := in.Idle(ctx, meta, producer)
		switch {
		case errors.Is(err, redis.ErrUnknownProducer):
			return nil
		case err != nil:
			return fmt.Errorf("it cannot be told whether a daemon still counts for %s: %w; --force drains it all the same", c.dir, err)
		case idle >= quietAfter:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("a daemon counts for %s, or for a copy of it: stop it first. --force drains it all the same", c.dir)
		}
		if err := sleepUntil(ctx, time.Now().Add(watchEvery)); err != nil {
			return err
		}
	}
	return nil
}

// drain is one run that sends.
type drain struct {
	command *drainCommand
	session *session
	state   *aggregator.Drain
	report  drainReport
	api     *client.Client
	bar     *progress
	batch   [][]byte // lines
	bytes   int
	last    uint64 // event of the batch
}

// send sends what is left. The state is durable before each batch, so that at any moment it says what may be in doubt.
func (d *drain) send(ctx context.Context, remains *aggregator.Remains) error {
	if age := time.Since(d.state.Sending); !d.state.Sending.IsZero() && age > doubtAfter && !d.command.force {
		return fmt.Errorf("the batch behind event %d was begun %s ago and its answer is not known: the daemon no longer recognises a repetition. Look whether "+
			"its events are there (`usagectl tail`); --force sends them again", d.state.Through, age.Round(time.Minute))
	}
	err := d.session.reach(ctx)
	if err != nil {
		return err
	}
	if d.api, err = d.session.client(posting, retrying(d.command.patience)); err != nil {
		return err
	}
	defer d.api.Close()
	d.bar = newProgress(d.session.stderr, int64(d.report.Events-min(d.report.Events, d.state.Sent+d.state.Refused)))
	defer d.bar.stop()
	d.state.To = d.api.URL()
	sum, err := remains.Each(ctx, d.state.Through, func(e *aggregator.RemainsEvent) error { return d.add(ctx, e) })
	if err == nil {
		err = d.flush(ctx)
	}
	if err == nil && (sum.Events != d.report.Events || sum.Missing != d.report.Missing) {
		err = fmt.Errorf("the journal read differently the second time (%s events to be sent, %s damaged): check the disk",
			thousands(sum.Events), thousands(sum.Missing))
	}
	if err != nil {
		return fmt.Errorf("the drain stopped with %s of %s events sent; the same command goes on from there, as long as it is given within 24 hours: %w",
			thousands(d.state.Sent), thousands(d.report.Events), err)
	}
	if d.state.Complete.IsZero() {
		d.state.Through, d.state.Complete = remains.End(), d.session.now().UTC()
	}
	return d.state.Save()
}

func (d *drain) add(ctx context.Context, e *aggregator.RemainsEvent) error {
	line := e.AppendJSON([]byte("{"), e.Producer, e.Seq)
	line = append(line, "}\n"...)
	if len(d.batch) == drainBatch || d.bytes+len(line) > maxBatchBytes {
		if err := d.flush(ctx); err != nil {
			return err
		}
	}
	d.batch, d.bytes, d.last = append(d.batch, line), d.bytes+len(line), e.Seq
	return nil
}

// flush sends the batch.
func (d *drain) flush(ctx context.Context) error {
	if len(d.batch) == 0 {
		return nil
	}
	d.state.Sending = d.session.now().UTC()
	if err := d.state.Save(); err != nil {
		return fmt.Errorf("note what is being sent: %w", err)
	}
	accepted, err := d.post(ctx)
	if err != nil {
		return err
	}
	d.bar.events(len(d.batch))
	d.bar.step(len(d.batch))
	d.state.Sent += uint64(accepted)
	d.state.Refused += uint64(len(d.batch) - accepted)
	d.state.Through, d.state.Sending = d.last, time.Time{}
	d.batch, d.bytes = d.batch[:0], 0
	return d.state.Save()
}

// post sends the batch, again without the events that the daemon refuses by name.
func (d *drain) post(ctx context.Context) (accepted int, err error) {
	lines := d.batch
	for len(lines) > 0 {
		var body []byte
		for _, line := range lines {
			body = append(body, line...)
		}
		n, err := d.api.Post(ctx, body)
		if err == nil {
			return n, nil
		}
		problem, ok := errors.AsType[*client.Problem](err)
		if !ok || problem.Status != http.StatusUnprocessableEntity {
			return 0, err
		}
		faults := byElement(problem, len(lines))
		if len(faults) == 0 {
			return 0, err
		}
		var rest [][]byte
		for i, line := range lines {
			if list := faults[i]; list != nil {
				d.report.Reasons[list[0].Code]++
			} else {
				rest = append(rest, line)
			}
		}
		lines = rest
	}
	return 0, nil
}

func (d *drain) print() error {
	r, s := &d.report, d.session
	if s.json() {
		return printJSON(s, r)
	}
	t := &table{right: []bool{false, true}}
	t.add("counted", thousands(r.Counted))
	t.add("duplicates, not to be counted", thousands(r.Duplicates))
	t.add("erased", thousands(r.Erased))
	t.add("damaged", thousands(r.Missing))
	t.add("to be sent", thousands(r.Events))
	t.add("sent", thousands(r.Sent))
	t.add("refused", thousands(r.Refused))
	if err := t.write(s.stdout); err != nil {
		return err
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
		fmt.Fprintf(s.stdout, "refused as %s: %s; they stay in the journal of %s\n", printable(reason), thousands(r.Reasons[reason]), d.command.dir)
	}
	var err error
	switch {
	case r.Complete && r.Missing > 0:
		_, err = fmt.Fprintf(s.stdout, "%s is drained, but for %s events that are damaged: where there is a backup of its journal, they are in it\n",
			d.command.dir, thousands(r.Missing))
	case r.Complete:
		_, err = fmt.Fprintf(s.stdout, "%s is drained: no daemon starts on it any more\n", d.command.dir)
	case !d.command.yes && r.Events > 0:
		_, err = fmt.Fprintf(s.stdout, "accepted from %s to %s; nothing was sent: add --yes\n", r.First.Format(time.RFC3339), r.Last.Format(time.RFC3339))
	}
	return err
}
