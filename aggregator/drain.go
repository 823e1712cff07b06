package aggregator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"usaged/aggregator/durable"
)

// Drain is how far the events of a data directory have been sent elsewhere: <data>/drained.json. Where the file is, no daemon
// starts: it would count them again.
type Drain struct {
	path  string
	begun bool

	// To is the URL of the daemon that got them.
	To string `json:"to"`
	// Through is the last event behind which all that was to be sent is sent. Sent were accepted, Refused were not.
	Through uint64 `json:"through"`
	Sent    uint64 `json:"sent"`
	Refused uint64 `json:"refused"`
	// Sending is when a batch was begun whose answer is not known.
	Sending time.Time `json:"sending,omitzero"`
	// Complete says when the last event was sent.
	Complete time.Time `json:"complete,omitzero"`
}

var drainFormat = durable.Format{Version: 2, Plain: 1}

// ReadDrain returns how far a data directory is drained.
func ReadDrain(dir string) (*Drain, error) {
	d := &Drain{path: filepath.Join(dir, "drained.json")}
	plain, err := drainFormat.LoadJSON(d.path, d)
	if errors.Is(err, os.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read how far the directory is drained: %w: restore the file from a backup", err)
	}
	d.begun = true
	if plain {
		return d, d.Save()
	}
	return d, nil
}

// Begun says that a batch has been sent, or was about to be.
func (d *Drain) Begun() bool { return d.begun }

// Save makes it durable.
func (d *Drain) Save() error {
	d.begun = true
	return drainFormat.SaveJSON(d.path, d, 0o640)
}

// refuseDrained keeps a daemon from counting again what was sent elsewhere.
func refuseDrained(dir string) error {
	d, err := ReadDrain(dir)
	if err != nil || !d.Begun() {
		return err
	}
	return fmt.Errorf("the events of %s that were not counted have been sent to %s, by `usagectl journal drain`: start with a new --data.dir, "+
		"or finish the drain; see %s", dir, d.To, d.path)
}
