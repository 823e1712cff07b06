package aggregator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"usaged/aggregator/datadir"
	"usaged/aggregator/durable"
	"usaged/aggregator/meter"
)

// labels are the values of the lifetime totals' labels, and the files that keep them: <data>/labels.json
// and a copy beside the journal, by which one that is lost is made again. They are written
// before a batch that uses a new value is given to the store, so that whatever is applied again gets the same labels.
type labels struct {
	*meter.Labels
	paths []string // the file and its copy

	saving sync.Mutex
	saved  uint64 // the number of changes in the files
}

var labelsFormat = durable.Format{Version: 2, Plain: 1}

// openLabels reads the file and its copy, of which either may be missing or damaged. Values are only ever added, in an order
// that both share, so what both say together is what the newer one says. mended says that one of them was written
// again from the other.
func openLabels(dir string, limits meter.Limits) (l *labels, mended bool, err error) {
	l = &labels{Labels: meter.NewLabels(limits), paths: []string{filepath.Join(dir, "labels.json"), filepath.Join(dir, datadir.Journal, "labels.json")}}
	fresh := l.Changes()
	whole, before := 0, false
	var damage error
	for _, path := range l.paths {
		plain, err := labelsFormat.LoadJSON(path, l.Labels)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case errors.Is(err, durable.ErrDamaged):
			damage = err
		case err != nil:
			return nil, false, fmt.Errorf("read labels: %w", err)
		case plain:
			before = true // there was no copy then
		default:
			whole++
		}
	}
	switch {
	case whole == 0 && damage != nil:
		return nil, false, fmt.Errorf("read labels: %w: restore it from a backup, or delete it: it is made again from the lifetime totals", damage)
	case whole == len(l.paths):
		l.saved = l.Changes()
		return l, false, nil
	case l.Changes() == fresh:
		return l, false, nil
	}
	return l, !before, l.save()
}

// Labels are the values that the labels of usage have.
func (a *Aggregator) Labels() *meter.Labels { return a.labels.Labels }

// LabelStates returns what is known of each label.
func (a *Aggregator) LabelStates() []meter.LabelState { return a.labels.States() }

// FreeLabel gives the room of a value to others, see meter.Labels.Free. It returns when that is durable.
func (a *Aggregator) FreeLabel(value string) (labels []string, err error) {
	labels = a.labels.Free(value)
	return labels, a.labels.save()
}

// save makes the values durable where some are new. It is safe for concurrent use.
func (l *labels) save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	changes := l.Changes()
	if changes == l.saved {
		return nil
	}
	for _, path := range l.paths {
		if err := labelsFormat.SaveJSON(path, l.Labels, 0o640); err != nil {
			return fmt.Errorf("write labels: %w", err)
		}
	}
	l.saved = changes
	return nil
}
