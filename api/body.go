package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
)

// maxBodyBytes bounds a request body, as it comes and decompressed.
const maxBodyBytes = 8 << 20

// bufferSizes are the capacities of body buffers. The last has room to notice that a body is too long.
var bufferSizes = [...]int{4 << 10, 32 << 10, 256 << 10, 1 << 20, maxBodyBytes + 512}

// firstBufferBytes bounds what a sender gets on the strength of its Content-Length alone; for more it has to send.
const firstBufferBytes = 256 << 10

// buffer holds a body. Its memory is charged to bodies from get to put.
type buffer struct {
	data []byte
	size int // index into bufferSizes
}

// bodies reads request bodies into pooled buffers and bounds what all of them take together.
//
// A compressed body is received whole before it is opened, so that a slow sender holds bytes but never a decoder, and
// as many decoders exist as can run.
type bodies struct {
	limit     int64
	used      atomic.Int64
	pools     [len(bufferSizes)]sync.Pool
	inflaters chan *inflater
}

func newBodies(limit int64) *bodies {
	b := &bodies{limit: limit, inflaters: make(chan *inflater, runtime.GOMAXPROCS(0))}
	for range cap(b.inflaters) {
		b.inflaters <- new(inflater)
	}
	return b
}

// read returns the decompressed body. The caller puts it back.
func (b *bodies) read(r *http.Request, c coding) (*buffer, error) {
	if r.ContentLength > maxBodyBytes {
		return nil, refusef(tooLarge, "the body has %d bytes, the limit is %d: send smaller batches", r.ContentLength, maxBodyBytes)
	}
	buf, err := b.fill(r.Body, r.ContentLength)
	if err != nil {
		return nil, refuseRead(err)
	}
	if c == identity {
		return buf, nil
	}
	defer b.put(buf)
	return b.inflate(r.Context(), buf.data, c)
}

var (
	errTooLong    = errors.New("the body is too long")
	errOverloaded = errors.New("too many bodies at one time")
)

// refuseRead says why a body could not be received.
func refuseRead(err error) error {
	switch {
	case errors.Is(err, errTooLong):
		return refusef(tooLarge, "the body has more than %d bytes, the limit: send smaller batches", maxBodyBytes)
	case errors.Is(err, errOverloaded):
		return refuseOverload()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(bodyTimeout, "the body did not arrive in time: send smaller batches")
	default:
		return refuse(incompleteBody, "the body ended before its announced end")
	}
}

func refuseOverload() error {
	return refuse(overloaded, "too many events are being received at this moment: try again")
}

// fill reads src to its end. hint is the expected length, or negative.
func (b *bodies) fill(src io.Reader, hint int64) (*buffer, error) {
	size := 0
	for want := min(hint+1, firstBufferBytes); int64(bufferSizes[size]) < want; {
		size++
	}
	buf, err := b.get(size)
	if err != nil {
		return nil, err
	}
	for {
		if len(buf.data) == cap(buf.data) {
			if buf, err = b.grow(buf); err != nil {
				return nil, err
			}
		}
		n, err := src.Read(buf.data[len(buf.data):cap(buf.data)])
		buf.data = buf.data[:len(buf.data)+n]
		if len(buf.data) > maxBodyBytes {
			b.put(buf)
			return nil, errTooLong
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			b.put(buf)
			return nil, err
		}
	}
}

// get charges and returns an empty buffer.
func (b *bodies) get(size int) (*buffer, error) {
	n := int64(bufferSizes[size])
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return nil, errOverloaded
	}
	if buf, ok := b.pools[size].Get().(*buffer); ok {
		return buf, nil
	}
	return &buffer{data: make([]byte, 0, n), size: size}, nil
}

// put gives a buffer back.
func (b *bodies) put(buf *buffer) {
	b.used.Add(-int64(bufferSizes[buf.size]))
	buf.data = buf.data[:0]
	b.pools[buf.size].Put(buf)
}

// grow moves a body into the next larger buffer. The smaller one is put back in any case.
func (b *bodies) grow(buf *buffer) (*buffer, error) {
	defer b.put(buf)
	larger, err := b.get(buf.size + 1)
	if err != nil {
		return nil, err
	}
	larger.data = append(larger.data, buf.data...)
	return larger, nil
}

// inflate opens a compressed body.
func (b *bodies) inflate(ctx context.Context, data []byte, c coding) (*buffer, error) {
	var in *inflater
	select {
	case in = <-b.inflaters:
	case <-ctx.Done():
		return nil, refuse(incompleteBody, "the request was given up")
	}
	defer func() { b.inflaters <- in }()
	src, err := in.open(data, c)
	if err != nil {
		return nil, refuseInflate(err, c)
	}
	buf, err := b.fill(src, -1)
	if err != nil {
		return nil, refuseInflate(err, c)
	}
	return buf, nil
}
