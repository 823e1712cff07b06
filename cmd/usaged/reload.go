package main

import (
	"fmt"
	"strings"
)

const reloadsName = "usaged_reloads_total"

var reloadHelp = map[string]string{reloadsName: "Times that the configuration was read again, by outcome."}

// reload reads again what can be read again: the tokens, the issuers, the quotas, the meters, the quiet times, the prices, and what the embedded
// Prometheus is told by files. All files are checked before any is put in force, so that a fault in one changes nothing. What can fail
// even so, as on a full disk, comes first, and the error says what is in force.
func (d *daemon) reload() (err error) {
	defer func() {
		outcome := "ok"
		if err != nil {
			outcome = "error"
		}
		d.set.GetOrCreateCounter(fmt.Sprintf("%s{outcome=%q}", reloadsName, outcome)).Inc()
	}()
	if err := d.cfg.checkFiles(); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	d.warnExposed()
	type step struct {
		what   string
		reload func() error
	}
	var steps []step
	if d.prometheus != nil {
		steps = append(steps, step{"the embedded Prometheus", d.prometheus.Reload})
	}
	if d.issuers != nil {
		steps = append(steps, step{"the issuers", d.issuers.Reload})
	}
	steps = append(steps, step{"the meters", d.reloadMeters}, step{"the tokens", d.auth.Reload},
		step{"the quotas", d.reloadQuotas}, step{"the quiet times", d.quiet.Reload},
		step{"the prices", d.prices.Reload})
	var done []string
	for _, s := range steps {
		if err := s.reload(); err != nil {
			if len(done) == 0 {
				return fmt.Errorf("nothing was changed: %w", err)
			}
			return fmt.Errorf("what was read again is in force of %s alone, and not of %s and what follows; reload again: %w",
				strings.Join(done, ", "), s.what, err)
		}
		done = append(done, s.what)
	}
	return nil
}
