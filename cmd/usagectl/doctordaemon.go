package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"

	"usaged/client"
)

// askTimeout bounds each question to the daemon: the ledger waits for a store that isn't there.
const askTimeout = 5 * time.Second

// daemonDoctor examines a running daemon.
type daemonDoctor struct {
	*diagnosis
	session *session
}

func (d *daemonDoctor) examine(ctx context.Context) {
	const check = "daemon"
	api, err := d.session.client(reading)
	if err != nil {
		d.fail(check, err.Error(), "name the daemon with --url and a file with an admin's token with --token-file")
		return
	}
	defer api.Close()
	if _, err := ask(ctx, api, "/-/healthy"); err != nil {
		d.absent(err)
		return
	}
	if _, err := ask(ctx, api, "/-/ready"); err != nil {
		d.fail(check, fmt.Sprintf("%s is not ready: %v", d.session.url, err), "see its log; it answers POST with 503")
	} else {
		d.ok(check, "%s is ready", d.session.url)
	}
	d.ledger(ctx, api)
	d.metrics(ctx, api)
}

func ask(ctx context.Context, api *client.Client, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := api.Get(ctx, path, nil, "")
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}

// absent says what it means that nobody answers: it depends on why a daemon was expected.
func (d *daemonDoctor) absent(err error) {
	const check = "daemon"
	if found, ok := d.session.distrusted(err); ok {
		d.fail(check, found, howToTrust)
		return
	}
	found := fmt.Sprintf("nobody answers at %s: %v", d.session.url, err)
	if e, ok := errors.AsType[*client.Unreachable](err); ok {
		found = fmt.Sprintf("nobody answers at %s: %v", d.session.url, e.Err)
	}
	if _, err := os.Stat(filepath.Join(d.session.dataDir, urlFile)); len(d.session.flagURLs) == 0 && errors.Is(err, fs.ErrNotExist) {
		d.warn(check, found, "start it, or name the one you mean with --url")
		return
	}
	d.fail(check, found, "it has ended without a stop or hangs: see its log, and start it again")
}

// ledgerAnswer is what we read of the ledger.
type ledgerAnswer struct {
	Producers []string          `json:"producers"`
	All       client.Account    `json:"all"`
	Others    []client.Producer `json:"others"`
}

func readLedger(ctx context.Context, api *client.Client) (*ledgerAnswer, error) {
	body, err := ask(ctx, api, client.LedgerPath)
	if err != nil {
		return nil, err
	}
	ledger := &ledgerAnswer{}
	if err := json.Unmarshal(body, ledger); err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return ledger, nil
}

func (d *daemonDoctor) ledger(ctx context.Context, api *client.Client) {
	const check = "ledger"
	ledger, err := readLedger(ctx, api)
	problem, refused := errors.AsType[*client.Problem](err)
	switch {
	case refused && (problem.Status == http.StatusUnauthorized || problem.Status == http.StatusForbidden):
		d.warn(check, "not known: "+d.session.explain(err), "name a file with an admin's token with --token-file")
		return
	case err != nil:
		d.fail(check, err.Error(), "the daemon has not reached its store, or is busy: see its log")
		return
	}
	all := ledger.All
	found := fmt.Sprintf("%s accepted, %s counted, %s, %s pending, %s damaged", thousands(all.Accepted), thousands(all.Counted),
		plural(all.Duplicates, "duplicate"), thousands(all.Pending), thousands(all.Damaged))
	switch {
	case !all.Balanced():
		d.fail(check, found+": it does not balance", "report it, with the log and the output of `usagectl ledger`")
	case all.Pending > manyEvents:
		d.warn(check, found, "figures are behind: see the log for what the store says")
	default:
		d.ok(check, "%s", found)
	}
}

// alarms are metrics that are 1 or 0 where something is wrong.
var alarms = []struct {
	name      string
	wrong     float64
	level     level
	found, do string
}{
	{"usaged_journal_available", 0, levelFail, "the journal cannot accept", "make room on its disk: see the log"},
	{"usaged_store_connected", 0, levelFail, "the store has not been reached since the start", "see the log for what it says"},
	{"usaged_fenced", 1, levelFail, "another process counts under its producer id", "stop the other one, which runs on a copy of the data directory, and restart this"},
	{"usaged_store_ahead", 1, levelWarn, "the store held events that the journal does not", "nothing if the data directory was restored from a backup; a restart clears it"},
	{"usaged_journal_retired_early", 1, levelWarn, "--retention.size has deleted events inside the retention", "raise it: those days cannot be rebuilt"},
}

func (d *daemonDoctor) metrics(ctx context.Context, api *client.Client) {
	const check, slow = "daemon metrics", 60
	text, err := ask(ctx, api, "/metrics")
	if err != nil {
		d.warn(check, "not known: "+err.Error(), "name a file with a viewer's or an admin's token with --token-file")
		return
	}
	before := len(d.Findings)
	for _, alarm := range alarms {
		if value, known := sample(text, alarm.name); known && value == alarm.wrong {
			d.grade(alarm.level, check, alarm.found+" ("+alarm.name+")", alarm.do)
		}
	}
	if jump, _ := sample(text, "usaged_clock_jump_seconds"); jump != 0 {
		d.fail(check, fmt.Sprintf("the wall clock of its machine is %.0f s ahead of the time, because it has jumped", jump),
			"set the clock right, or run `usagectl clock accept` if it is right now")
	}
	if due, _ := sample(text, "usaged_retention_due_timestamp_seconds"); due > 0 {
		d.warn(check, fmt.Sprintf("--retention.days was lowered, and days beyond it will be deleted at %s", time.Unix(int64(due), 0).UTC().Format(time.RFC3339)),
			"see `usagectl retention`; to keep them start the daemon with as many days as before")
	}
	if lag, _ := sample(text, "usaged_apply_lag_seconds"); lag > slow {
		d.warn(check, fmt.Sprintf("the oldest event that is not applied is %.0f s old", lag), "the store is slow or refuses: see the log")
	}
	if len(d.Findings) == before {
		d.ok(check, "no alarm")
	}
}
