package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/aggregator"
	"usaged/aggregator/meter"
	"usaged/aggregator/store/redis"
)

const (
	// A daemon looks at its own producer every two seconds. Where nobody has for quietAfter, none does.
	quietAfter   = 6 * time.Second
	watchFor     = 8 * time.Second
	watchEvery   = 500 * time.Millisecond
	unknownField = "–"
)

// producersCommand lists those who have counted, and takes one off the list that is gone.
type producersCommand struct {
	redis redisFlags
	id    string
	force bool
}

func addProducers(app *kingpin.Application, s *session, commands map[string]command) {
	group := app.Command("producers", "Show who has counted: each data directory is a producer. Plain `producers` is `producers list`.")
	list := &producersCommand{}
	cmd := group.Command("list", "List the producers that the store knows. With --redis.url Redis is asked, otherwise the daemon, which tells no "+
		"offsets and sessions.").Default()
	list.redis.add(cmd, s)
	commands[cmd.FullCommand()] = list.list

	prune := &producersCommand{}
	cmd = group.Command("prune", "Take a producer off the lists whose data directory is gone for ever: the ledger of the others no longer shows it. What "+
		"it has added to the rollups stays, and so does the record of how far it came: a directory that comes back all the same goes on there, counts "+
		"nothing twice, and is listed again.")
	prune.redis.add(cmd, s)
	cmd.Arg("id", "The producer, as list shows it.").Required().StringVar(&prune.id)
	cmd.Flag("force", "Also one that is in use, or of which this cannot be told.").BoolVar(&prune.force)
	commands[cmd.FullCommand()] = prune.prune
}

// producerRow is a producer as it is shown.
type producerRow struct {
	ID         string  `json:"id"`
	Own        bool    `json:"own"` // of this data directory, or of the daemon asked
	Offset     *uint64 `json:"offset,omitempty"`
	Session    *uint64 `json:"session,omitempty"`
	Counted    *uint64 `json:"counted,omitempty"`
	Duplicates *uint64 `json:"duplicates,omitempty"`
}

// rowOf shows what Redis knows of a producer.
func rowOf(p *redis.ProducerState, own bool) producerRow {
	var counted, duplicates uint64
	for series, n := range p.Totals {
		switch series.Family {
		case meter.FamilyEvents:
			counted += n
		case meter.FamilyDuplicates:
			duplicates += n
		}
	}
	return producerRow{ID: p.ID, Own: own, Offset: &p.Offset, Session: &p.Session, Counted: &counted, Duplicates: &duplicates}
}

func producerTable(rows []producerRow) *table {
	t := newTable("PRODUCER", "OWN", ">OFFSET", ">SESSION", ">COUNTED", ">DUPLICATES")
	number := func(n *uint64) string {
		if n == nil {
			return unknownField
		}
		return thousands(*n)
	}
	for _, row := range rows {
		own := ""
		if row.Own {
			own = "yes"
		}
		session := unknownField
		if row.Session != nil {
			session = strconv.FormatUint(*row.Session, 10)
		}
		t.add(row.ID, own, number(row.Offset), session, number(row.Counted), number(row.Duplicates))
	}
	return t
}

func (c *producersCommand) list(ctx context.Context, s *session) error {
	if err := c.redis.check(); err != nil {
		return err
	}
	ask := c.fromDaemon
	if c.redis.given() {
		ask = c.fromRedis
	}
	rows, err := ask(ctx, s)
	if err != nil {
		return err
	}
	if s.json() {
		return printJSON(s, map[string]any{"producers": rows})
	}
	return producerTable(rows).write(s.stdout)
}

// fromDaemon lists the producers by the ledger. The accounts of a daemon's own ids are one.
func (c *producersCommand) fromDaemon(ctx context.Context, s *session) ([]producerRow, error) {
	api, err := s.client(reading)
	if err != nil {
		return nil, err
	}
	defer api.Close()
	ledger, err := readLedger(ctx, api)
	if err != nil {
		return nil, err
	}
	var rows []producerRow
	for _, id := range ledger.Producers {
		row := producerRow{ID: id, Own: true}
		if len(ledger.Producers) == 1 {
			row.Counted, row.Duplicates = &ledger.All.Counted, &ledger.All.Duplicates
		}
		rows = append(rows, row)
	}
	for _, p := range ledger.Others {
		rows = append(rows, producerRow{ID: p.ID, Counted: &p.Counted, Duplicates: &p.Duplicates})
	}
	return rows, nil
}

func (c *producersCommand) fromRedis(ctx context.Context, s *session) (rows []producerRow, err error) {
	in, meta, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	producers, err := in.Producers(ctx, meta)
	if err != nil {
		return nil, err
	}
	own, err := readIdentity(s.dataDir)
	if err != nil {
		return nil, err
	}
	rows = []producerRow{}
	for _, p := range withoutRebuilds(producers) {
		rows = append(rows, rowOf(&p, own.has(p.ID)))
	}
	return rows, nil
}

// withoutRebuilds leaves out the producers under which the past of meters was counted: each is a part of one that is listed.
func withoutRebuilds(producers []redis.ProducerState) []redis.ProducerState {
	return slices.DeleteFunc(slices.Clone(producers), func(p redis.ProducerState) bool {
		_, _, rebuild := aggregator.RebuildOf(p.ID)
		return rebuild
	})
}

// connect returns Redis and what it says of its store.
func (c *producersCommand) connect(ctx context.Context) (*redis.Inspector, *redis.Meta, error) {
	in, err := c.redis.open()
	if err != nil {
		return nil, nil, err
	}
	meta, err := in.Meta(ctx)
	switch {
	case err != nil:
	case !meta.Found:
		err = fmt.Errorf("%s has no usage:meta: no daemon uses this database; check --redis.url", in)
	case !meta.Compatible():
		err = fmt.Errorf("%s has schema %q, which this version does not know", in, meta.Schema)
	default:
		return in, meta, nil
	}
	return nil, nil, errors.Join(err, in.Close())
}

func (c *producersCommand) prune(ctx context.Context, s *session) (err error) {
	if !c.redis.given() {
		return usagef("producers prune needs --redis.url; the embedded database knows one data directory alone, and needs no pruning")
	}
	in, meta, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if err := c.checkGone(ctx, s, in, meta); err != nil {
		return err
	}
	producers, err := in.Producers(ctx, meta)
	if err != nil {
		return err
	}
	var row producerRow
	ids := []string{c.id}
	for _, p := range producers {
		if p.ID == c.id {
			row = rowOf(&p, false)
		}
		if of, _, rebuild := aggregator.RebuildOf(p.ID); rebuild && of == c.id {
			ids = append(ids, p.ID)
		}
	}
	if row.ID == "" {
		return fmt.Errorf("%s knows no producer %q; `usagectl producers` lists them", in, c.id)
	}
	for _, id := range ids {
		if err := in.Prune(ctx, meta, id); err != nil {
			return err
		}
	}
	if s.json() {
		return printJSON(s, map[string]any{"pruned": row})
	}
	_, err = fmt.Fprintf(s.stdout, "pruned %s: offset %s, %s counted, %s\nWhat it has added to the rollups stays until it expires. "+
		"Should its data directory come back, it goes on where it was and is listed again.\n", printable(row.ID), thousands(*row.Offset),
		thousands(*row.Counted), plural(*row.Duplicates, "duplicate"))
	return err
}

// checkGone refuses a producer that may still apply.
func (c *producersCommand) checkGone(ctx context.Context, s *session, in *redis.Inspector, meta *redis.Meta) error {
	if c.force {
		return nil
	}
	own, err := readIdentity(s.dataDir)
	if err != nil {
		return err
	}
	if own.has(c.id) {
		return fmt.Errorf("%s is the producer of the data directory %s, and would be listed again with its next batch; --force does it all the same",
			printable(c.id), s.dataDir)
	}
	if api, err := s.client(reading); err == nil {
		ledger, err := readLedger(ctx, api)
		api.Close()
		for i := 0; err == nil && i < len(ledger.Producers); i++ {
			if ledger.Producers[i] == c.id {
				return fmt.Errorf("%s is the producer of the daemon at %s, and would be listed again with its next batch; --force does it all the same",
					printable(c.id), s.url)
			}
		}
	}
	return c.watch(ctx, in, meta)
}

// watch looks whether somebody uses the producer.
func (c *producersCommand) watch(ctx context.Context, in *redis.Inspector, meta *redis.Meta) error {
	deadline := time.Now().Add(watchFor)
	for {
		idle, err := in.Idle(ctx, meta, c.id)
		if errors.Is(err, redis.ErrUnknownProducer) {
			return fmt.Errorf("%s knows no producer %q; `usagectl producers` lists them", in, c.id)
		}
		if err != nil {
			return fmt.Errorf("it cannot be told whether a daemon uses the producer: %w; --force prunes it all the same", err)
		}
		if idle >= quietAfter {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is in use: something reads or writes it every few seconds, and it would be listed again. Stop its daemon first; "+
				"--force prunes it all the same", printable(c.id))
		}
		if err := sleepUntil(ctx, time.Now().Add(watchEvery)); err != nil {
			return err
		}
	}
}
