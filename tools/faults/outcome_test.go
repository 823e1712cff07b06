package faults

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// outcome is what a trial ended in. The package comment says what each means.
type outcome string

const (
	exact   outcome = "exact"
	refused outcome = "refused"
	alarmed outcome = "alarmed"
	unclear outcome = "unclear"
	lost    outcome = "lost"
	doubled outcome = "doubled"
	silent  outcome = "silent"
	stuck   outcome = "stuck"
)

// outcomes are all of them, in the order of the table.
var outcomes = []outcome{exact, refused, alarmed, unclear, lost, doubled, silent, stuck}

func (o outcome) right() bool { return o == exact || o == refused || o == alarmed }

// verdict is an outcome and what led to it.
type verdict struct {
	outcome outcome
	detail  string
}

// advice finds in a message what the reader is told to do.
var advice = regexp.MustCompile(`(?i)\b(run|restore|remove|move|delete|check|free|use|start|stop|give|set|put|make|try|repair|wait|must|name|see|raise|choose)\b|usagectl`)

// judgeRefusal judges the last line of a daemon that did not start.
func (d *daemon) judgeRefusal() verdict {
	message := d.log.lastError()
	names := strings.Contains(message, d.dir) || strings.Contains(message, filepath.Base(d.dir)+"/") || strings.Contains(message, "redis")
	switch {
	case strings.Contains(d.log.String(), "panic"), strings.Contains(d.log.String(), "goroutine 1 ["):
		return verdict{unclear, "panic: " + d.log.tail(2000)}
	case !names || !advice.MatchString(message):
		return verdict{unclear, "the refusal does not name a file or says nothing to do: " + message}
	}
	return verdict{refused, message}
}

// examine waits until a daemon that was started has applied what it has, and compares what it shows with the book.
func (d *daemon) examine(b *book) verdict {
	if err := d.start(); err != nil {
		return d.judgeRefusal()
	}
	v, err := d.settled()
	if err != nil {
		if d.exited() {
			return d.judgeRefusal()
		}
		if strings.Contains(err.Error(), "status 401") {
			return verdict{refused, err.Error()}
		}
		return verdict{stuck, fmt.Sprintf("%v\n%s", err, d.log.tail(1500))}
	}
	return d.judge(b, v)
}

// concludes is examine for a daemon that runs. A store that has lost something is counted anew beside the readers, so the daemon
// has until nothing changes any more.
func (d *daemon) concludes(b *book) verdict {
	var v verdict
	err := d.awaitFor(rest, "exact figures", func() (bool, string, error) {
		shown, err := d.settled()
		if err != nil {
			return false, "", err
		}
		v = d.judge(b, shown)
		return v.outcome == exact, fmt.Sprint(v, shown.Ledger), nil
	})
	switch {
	case err == nil || v.outcome != "":
		return v
	case d.exited():
		return d.judgeRefusal()
	}
	return verdict{stuck, fmt.Sprintf("%v\n%s", err, d.log.tail(1500))}
}

// judge compares what a daemon shows with the book. An alarm excuses what is missing only where the trial has destroyed something:
// a daemon that was killed, or whose calls failed, still has everything.
func (d *daemon) judge(b *book, v *view) verdict {
	missing, extra, faults := b.compare(v)
	alarm := ""
	if d.destroyed {
		alarm = d.log.alarm(d.harmed)
	}
	switch {
	case extra > 0:
		return verdict{doubled, fmt.Sprintf("%d events too many: %s", extra, join(faults))}
	case missing > 0 && d.destroyed && v.Ledger.All.Damaged > 0:
		return verdict{alarmed, fmt.Sprintf("%d events are damaged", v.Ledger.All.Damaged)}
	case missing > 0 && alarm != "":
		return verdict{alarmed, alarm}
	case missing > 0:
		return verdict{lost, fmt.Sprintf("%d events are missing: %s", missing, join(faults))}
	case len(faults) > 0 && alarm != "":
		return verdict{alarmed, alarm}
	case len(faults) > 0:
		return verdict{silent, join(faults)}
	}
	return verdict{exact, ""}
}

// join makes a page of faults at most.
func join(faults []string) string {
	if more := len(faults) - 10; more > 0 {
		faults = append(faults[:10:10], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(faults, "; ")
}
