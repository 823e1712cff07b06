package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
)

const eventsPath = "/api/v1/usage/events"

// Event is one usage event to be sent.
type Event struct {
	// ID names the event among those of its user and type: the server counts an id once within 24 hours. Send makes one where it
	// is empty.
	ID string `json:"id,omitempty"`
	// UserID is who did it. Empty means the token's own user.
	UserID string `json:"user_id,omitempty"`
	// Type is what was done, such as sql_execution. Required.
	Type     string            `json:"event_type"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Source is the service that the event comes from.
	Source string `json:"source,omitempty"`
	// CreatedAt is when it was done. The zero time means the server's clock.
	CreatedAt time.Time `json:"created_at,omitzero"`
}

// Compression is how request bodies are packed.
type Compression string

// What a body may be packed with.
const (
	None Compression = ""
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

func (c Compression) valid() bool { return c == None || c == Gzip || c == Zstd }

// Send sends events as one batch: all are accepted, or none. The server takes up to 10,000 events and 8 MiB at once.
// Events without an id are given one, in a copy, so that a retry after a lost answer counts them once. A refusal is a
// [*Problem] whose faults point into the slice by index.
func (c *Client) Send(ctx context.Context, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	var body bytes.Buffer
	for i, e := range events {
		if e.ID == "" {
			id, err := uuid.NewV7()
			if err != nil {
				return fmt.Errorf("make an id: %w", err)
			}
			e.ID = id.String()
		}
		if err := json.MarshalWrite(&body, e); err != nil {
			return fmt.Errorf("encode event %d: %w", i, err)
		}
		body.WriteByte('\n')
	}
	_, err := c.Post(ctx, body.Bytes())
	return err
}

// Post sends a batch that is already encoded: NDJSON, one event a line, no blank lines. It returns the number of events
// that the server accepted. Retries are as safe as the events' ids make them.
func (c *Client) Post(ctx context.Context, ndjson []byte) (accepted int, err error) {
	header := http.Header{"Content-Type": {"application/x-ndjson"}}
	body, err := c.encode.pack(ndjson)
	if err != nil {
		return 0, fmt.Errorf("compress batch: %w", err)
	}
	if c.encode != None {
		header.Set("Content-Encoding", string(c.encode))
	}
	answer, err := c.do(ctx, request{method: http.MethodPost, path: eventsPath, header: header, body: body})
	if err != nil {
		return 0, err
	}
	var receipt struct {
		Status   string `json:"status"`
		Accepted int    `json:"accepted"`
	}
	if answer.Status != http.StatusAccepted {
		return 0, fmt.Errorf("the server answered %d where 202 was due: is it usaged?", answer.Status)
	}
	if err := json.Unmarshal(answer.Body, &receipt); err != nil {
		return 0, fmt.Errorf("read the server's receipt: %w", err)
	}
	return receipt.Accepted, nil
}

// zstdEncoder is made once, since that is costly; EncodeAll may be used by any number of goroutines.
var zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
})

// pack compresses a body.
func (c Compression) pack(body []byte) ([]byte, error) {
	switch c {
	case Gzip:
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		if _, err := w.Write(body); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		return packed.Bytes(), nil
	case Zstd:
		encoder, err := zstdEncoder()
		if err != nil {
			return nil, err
		}
		return encoder.EncodeAll(body, nil), nil
	}
	return body, nil
}

// bodyReader returns a nil interface for no body, so that net/http sends none.
func bodyReader(body []byte) io.Reader {
	if body == nil {
		return nil
	}
	return bytes.NewReader(body)
}
