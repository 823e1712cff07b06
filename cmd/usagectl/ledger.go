package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/alecthomas/kingpin/v2"
	"github.com/go-json-experiment/json"

	"usaged/client"
)

func addLedger(app *kingpin.Application, _ *session, commands map[string]command) {
	cmd := app.Command("ledger", "Show where every accepted event has gone, and fail where accepted is not counted + duplicates + pending + "+
		"damaged.")
	commands[cmd.FullCommand()] = showLedger
}

func showLedger(ctx context.Context, s *session) error {
	api, err := s.client(reading)
	if err != nil {
		return err
	}
	defer api.Close()
	answer, err := api.Get(ctx, client.LedgerPath, nil, "")
	if err != nil {
		return err
	}
	var ledger client.Ledger
	if err := json.Unmarshal(answer.Body, &ledger); err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	if s.json() {
		_, err = s.stdout.Write(answer.Body)
	} else {
		err = printLedger(s, &ledger)
	}
	if err != nil {
		return err
	}
	return balance(&ledger)
}

func printLedger(s *session, ledger *client.Ledger) error {
	t := newTable("EVENT TYPE", ">ACCEPTED", ">COUNTED", ">DUPLICATES", ">PENDING", ">DAMAGED")
	row := func(name string, a client.Account) {
		t.add(name, thousands(a.Accepted), thousands(a.Counted), thousands(a.Duplicates), thousands(a.Pending), thousands(a.Damaged))
	}
	for _, name := range slices.Sorted(maps.Keys(ledger.Types)) {
		row(name, ledger.Types[name])
	}
	row("all", ledger.All)
	if err := t.write(s.stdout); err != nil {
		return err
	}
	rejected := newTable("REJECTED SINCE START", ">NUMBER")
	for _, reason := range slices.Sorted(maps.Keys(ledger.Rejected)) {
		if n := ledger.Rejected[reason]; n > 0 {
			rejected.add(reason, thousands(n))
		}
	}
	others := newTable("OTHER PRODUCER", ">COUNTED", ">DUPLICATES")
	for _, p := range ledger.Others {
		others.add(p.ID, thousands(p.Counted), thousands(p.Duplicates))
	}
	for _, t := range []*table{rejected, others} {
		if len(t.rows) == 1 {
			continue
		}
		fmt.Fprintln(s.stdout)
		if err := t.write(s.stdout); err != nil {
			return err
		}
	}
	if ledger.OthersStale {
		fmt.Fprintln(s.stdout, "\nThe store does not answer: other producers are as it knew them last.")
	}
	return nil
}

// balance fails where events are unaccounted for.
func balance(ledger *client.Ledger) error {
	check := func(name string, a client.Account) error {
		if a.Balanced() {
			return nil
		}
		return fmt.Errorf("the ledger of %s does not balance: %s accepted, but %s counted + duplicates + pending + damaged", name,
			thousands(a.Accepted), thousands(a.Counted+a.Duplicates+a.Pending+a.Damaged))
	}
	for _, name := range slices.Sorted(maps.Keys(ledger.Types)) {
		if err := check(name, ledger.Types[name]); err != nil {
			return err
		}
	}
	return check("all types", ledger.All)
}
