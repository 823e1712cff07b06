package remotewrite

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"usaged/aggregator/aside"
	"usaged/aggregator/durable"
)

// state is the cursor of a sender on disk. It is safe for concurrent use.
type state struct {
	path string

	mu   sync.Mutex
	file stateFile
}

// stateFile is the content of a cursor file. Times are in milliseconds.
type stateFile struct {
	// Remote says whose it is, to a person.
	Remote string `json:"remote"`
	// Cursor is the time up to which everything has been taken.
	Cursor int64 `json:"cursor"`
	// Late is the earliest sample that came late and has not been sent; a start begins there. 0: none.
	Late int64 `json:"late,omitempty"`
}

var stateFormat = durable.Format{Version: 1, Plain: 0}

// openState reads the cursor of an endpoint, or makes one at a time. One that cannot be read is set aside: what was waiting for that
// endpoint is not sent, and what is new is.
func openState(dir, remote string, fresh int64, damaged *aside.Shelf) (*state, error) {
	sum := sha256.Sum256([]byte(remote))
	s := &state{path: filepath.Join(dir, hex.EncodeToString(sum[:6])+".json"), file: stateFile{Remote: remote, Cursor: fresh}}
	plain, err := stateFormat.LoadJSON(s.path, &s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, s.write()
	}
	if err != nil {
		err = fmt.Errorf("read the cursor of remote write: %w: delete it to begin with new samples", err)
		if damaged == nil {
			return nil, err
		}
		if moveErr := damaged.Move(aside.RemoteWrite, err, s.path); moveErr != nil {
			return nil, errors.Join(err, moveErr)
		}
		s.file = stateFile{Remote: remote, Cursor: fresh}
		return s, s.write()
	}
	if plain {
		if err := s.write(); err != nil {
			return nil, err
		}
	}
	if s.file.Late != 0 {
		s.file.Cursor, s.file.Late = min(s.file.Cursor, s.file.Late-1), 0
	}
	return s, nil
}

func (s *state) cursor() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Cursor
}

// move sets the cursor.
func (s *state) move(cursor int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file.Cursor = cursor
	return s.write()
}

// skip sets the cursor until the next start.
func (s *state) skip(cursor int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file.Cursor = cursor
}

// announce notes that a sample of a time is to be sent although the cursor is beyond it.
func (s *state) announce(t int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file.Late != 0 && s.file.Late <= t {
		return nil
	}
	s.file.Late = t
	return s.write()
}

// earliest returns the time of the earliest sample that was announced, or what follows the cursor.
func (s *state) earliest() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file.Late == 0 {
		return s.file.Cursor + 1
	}
	return min(s.file.Late, s.file.Cursor+1)
}

// settle notes that no late sample is left.
func (s *state) settle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file.Late == 0 {
		return nil
	}
	s.file.Late = 0
	return s.write()
}

// write needs mu, except before the state is shared.
func (s *state) write() error {
	if err := stateFormat.SaveJSON(s.path, s.file, 0o640); err != nil {
		return fmt.Errorf("write the cursor of remote write: %w", err)
	}
	return nil
}
