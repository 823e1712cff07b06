package aggregator

import (
	"encoding/json"
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
	path string

	Version int `json:"version"`
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

const drainVersion = 1

// ReadDrain returns how far a data directory is drained. Where that has not begun its Version is 0.
func ReadDrain(dir string) (*Drain, error) {
	d := &Drain{path: filepath.Join(dir, "drained.json")}
	data, err := os.ReadFile(d.path)
	if errors.Is(err, os.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, d); err != nil || d.Version != drainVersion {
		return nil, fmt.Errorf("%s is damaged, or of another version (%v): restore it from a backup", d.path, err)
	}
	return d, nil
}

// Save makes it durable.
func (d *Drain) Save() error {
	d.Version = drainVersion
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(d.path, append(data, '\n'), 0o640)
}

// refuseDrained keeps a daemon from counting again what was sent elsewhere.
func refuseDrained(dir string) error {
	d, err := ReadDrain(dir)
	if err != nil || d.Version == 0 {
		return err
	}
	return fmt.Errorf("the events of %s that were not counted have been sent to %s, by `usagectl journal drain`: start with a new --data.dir, "+
		"or finish the drain; see %s", dir, d.To, d.path)
}
