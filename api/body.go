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
	"time"
)

// maxBodyBytes bounds a request body, as it comes and decompressed.
const maxBodyBytes = 8 << 20

// bufferSizes are the capacities of body buffers, each a small multiple of the one before: a sender gets the next when it has
// filled the last, so that what it holds follows from what it has sent and not from the length that it announced. The last has
// room to notice that a body is too long.
var bufferSizes = [...]int{4 << 10, 32 << 10, 128 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, maxBodyBytes + 512}

// buffer holds a body. Its memory is charged to bodies and to its share from get to put.
type buffer struct {
	data  []byte
	size  int // index into bufferSizes
	share *share
}

// share is what one sender, or one kind of senders, may hold of the memory for bodies.
type share struct {
	limit int64
	used  atomic.Int64
	// within is a larger share that this one is a part of. May be nil.
	within *share
}

// take charges n bytes, or changes nothing and returns false where there is no room for them.
func (s *share) take(n int64) bool {
	for at := s; at != nil; at = at.within {
		if at.used.Add(n) > at.limit {
			at.used.Add(-n)
			for back := s; back != at; back = back.within {
				back.used.Add(-n)
			}
			return false
		}
	}
	return true
}

func (s *share) give(n int64) {
	for at := s; at != nil; at = at.within {
		at.used.Add(-n)
	}
}

// bodies reads request bodies into pooled buffers and bounds what all of them take together.
//
// A compressed body is received whole before it is opened, so that a slow sender holds bytes but never a decoder, and
// as many decoders exist as can run.
type bodies struct {
	all       share
	users     share // of all senders with the role user together, so that room for producers is left
	pools     [len(bufferSizes)]sync.Pool
	inflaters chan *inflater
}

func newBodies(limit int64) *bodies {
	b := &bodies{inflaters: make(chan *inflater, runtime.GOMAXPROCS(0))}
	b.all.limit = limit
	b.users.limit, b.users.within = limit/2, &b.all
	for range cap(b.inflaters) {
		b.inflaters <- new(inflater)
	}
	return b
}

// newShare returns the share of one sender: half of all memory, or an eighth where it has the role user. A sender that is slow
// or broken fills its own share and no more.
func (b *bodies) newShare(user bool) *share {
	if user {
		return &share{limit: max(b.all.limit/8, minShareBytes), within: &b.users}
	}
	return &share{limit: max(b.all.limit/2, minShareBytes), within: &b.all}
}

// minShareBytes is enough for one of the largest bodies while it moves from one buffer to the next and is decompressed.
const minShareBytes = 3 * maxBodyBytes

// overloaded says that nearly all of the memory for bodies is taken.
func (b *bodies) overloaded() bool { return b.all.used.Load() > b.all.limit/10*9 }

// read returns the decompressed body. The caller puts it back.
func (b *bodies) read(w http.ResponseWriter, r *http.Request, c coding, from *share) (*buffer, error) {
	if r.ContentLength > maxBodyBytes {
		return nil, refusef(tooLarge, "the body has %d bytes, the limit is %d: send smaller batches", r.ContentLength, maxBodyBytes)
	}
	buf, err := b.fill(newPaced(w, r), from)
	if err != nil {
		return nil, refuseRead(err)
	}
	if c == identity {
		return buf, nil
	}
	defer b.put(buf)
	return b.inflate(r.Context(), buf.data, c, from)
}

// How fast a body has to arrive.
const (
	// bodyGrace is how long a sender may take for a body of any size, the header not included.
	bodyGrace = 5 * time.Second
	// minBodyRate is the least number of bytes per second beyond that. The largest body may then take longer than the read timeout
	// of the server, which ends it earlier.
	minBodyRate = 16 << 10
)

// paced reads a body whose sender must keep up minBodyRate. Most bodies arrive together with their header: the first read of a
// short one is left to the deadline of the server, which saves a timer for each request.
type paced struct {
	src     io.Reader
	control *http.ResponseController
	start   time.Time
	arrived int64
	timed   bool // a deadline was set
	short   bool
}

func newPaced(w http.ResponseWriter, r *http.Request) *paced {
	return &paced{
		src: r.Body, control: http.NewResponseController(w), start: time.Now(),
		short: r.ContentLength >= 0 && r.ContentLength <= int64(bufferSizes[0]),
	}
}

// Read reads what has arrived, and waits for more only as long as minBodyRate allows. At the end of the body it gives the request
// the server's deadline back, because the expiry of a deadline cancels the request's context.
func (p *paced) Read(data []byte) (int, error) {
	if p.arrived > 0 || !p.short {
		p.allow(bodyGrace + time.Duration(p.arrived)*time.Second/minBodyRate)
	}
	n, err := p.src.Read(data)
	p.arrived += int64(n)
	if err == io.EOF && p.timed {
		p.allow(requestReadTimeout)
	}
	return n, err
}

func (p *paced) allow(d time.Duration) {
	p.timed = true
	// A writer without deadlines is not a connection and needs none.
	_ = p.control.SetReadDeadline(p.start.Add(min(d, requestReadTimeout)))
}

var (
	errTooLong    = errors.New("the body is too long")
	errOverloaded = errors.New("too many bodies at one time")
	errShareSpent = errors.New("too many bodies of one sender at one time")
)

// refuseRead says why a body could not be received.
func refuseRead(err error) error {
	switch {
	case errors.Is(err, errTooLong):
		return refusef(tooLarge, "the body has more than %d bytes, the limit: send smaller batches", maxBodyBytes)
	case errors.Is(err, errOverloaded):
		return refuseOverload()
	case errors.Is(err, errShareSpent):
		return refuseShare()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(bodyTimeout, "the body did not arrive in time, which is 5 s and a second for each 16 KiB: send smaller batches")
	default:
		return refuse(incompleteBody, "the body ended before its announced end")
	}
}

func refuseOverload() error {
	return refuse(overloaded, "too many events are being received at this moment: try again")
}

func refuseShare() error {
	return refuse(quotaExceeded, "this token has too many bodies on their way at this moment: send fewer or smaller ones at once")
}

// fill reads src to its end.
func (b *bodies) fill(src io.Reader, from *share) (*buffer, error) {
	buf, err := b.get(0, from)
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
func (b *bodies) get(size int, from *share) (*buffer, error) {
	n := int64(bufferSizes[size])
	if !from.take(n) {
		if b.all.used.Load()+n > b.all.limit {
			return nil, errOverloaded
		}
		return nil, errShareSpent
	}
	buf, ok := b.pools[size].Get().(*buffer)
	if !ok {
		buf = &buffer{data: make([]byte, 0, n), size: size}
	}
	buf.share = from
	return buf, nil
}

// put gives a buffer back.
func (b *bodies) put(buf *buffer) {
	buf.share.give(int64(bufferSizes[buf.size]))
	buf.data, buf.share = buf.data[:0], nil
	b.pools[buf.size].Put(buf)
}

// grow moves a body into the next larger buffer. The smaller one is put back in any case.
func (b *bodies) grow(buf *buffer) (*buffer, error) {
	defer b.put(buf)
	larger, err := b.get(buf.size+1, buf.share)
	if err != nil {
		return nil, err
	}
	larger.data = append(larger.data, buf.data...)
	return larger, nil
}

// inflate opens a compressed body.
func (b *bodies) inflate(ctx context.Context, data []byte, c coding, from *share) (*buffer, error) {
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
	buf, err := b.fill(src, from)
	if err != nil {
		return nil, refuseInflate(err, c)
	}
	return buf, nil
}
