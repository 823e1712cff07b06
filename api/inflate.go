package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// coding is how a body is compressed.
type coding uint8

const (
	identity coding = iota
	gzipped
	zstandard
)

func (c coding) String() string { return [...]string{"identity", "gzip", "zstd"}[c] }

const acceptedCodings = "gzip, zstd"

// bodyCoding reads the Content-Encoding of a request.
func bodyCoding(w http.ResponseWriter, r *http.Request) (coding, error) {
	values := r.Header["Content-Encoding"]
	if len(values) == 0 {
		return identity, nil
	}
	switch value := strings.ToLower(strings.TrimSpace(strings.Join(values, ","))); value {
	case "", "identity":
		return identity, nil
	case "gzip", "x-gzip":
		return gzipped, nil
	case "zstd":
		return zstandard, nil
	}
	w.Header().Set("Accept-Encoding", acceptedCodings) // RFC 7694
	return identity, refuse(unsupportedEncoding, "Content-Encoding may be identity or one of "+acceptedCodings)
}

// inflater opens one body at a time. Its decoders are made at first use and kept: each holds one window.
type inflater struct {
	src  bytes.Reader
	gzip *gzip.Reader
	zstd *zstd.Decoder
}

// open returns a reader of the decompressed body. It is valid until the next call.
func (in *inflater) open(data []byte, c coding) (io.Reader, error) {
	in.src.Reset(data)
	if c == gzipped {
		if in.gzip == nil {
			in.gzip = new(gzip.Reader)
		}
		return in.gzip, in.gzip.Reset(&in.src)
	}
	if in.zstd == nil {
		// A window larger than a body may be would buy the sender nothing. One decoder runs on the caller's
		// goroutine, so there is none to stop.
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxBodyBytes), zstd.WithDecoderMaxMemory(maxBodyBytes))
		if err != nil {
			return nil, fmt.Errorf("new zstd decoder: %w", err)
		}
		in.zstd = dec
	}
	return in.zstd, in.zstd.Reset(&in.src)
}

// refuseInflate says why a body could not be opened.
func refuseInflate(err error, c coding) error {
	switch {
	case errors.Is(err, errTooLong):
		return refusef(tooLarge, "the decompressed body has more than %d bytes, the limit: send smaller batches", maxBodyBytes)
	case errors.Is(err, errOverloaded):
		return refuseOverload()
	case errors.Is(err, errShareSpent):
		return refuseShare()
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return refusef(tooLarge, "the zstd frame asks for a window of more than %d bytes, the limit", maxBodyBytes)
	default:
		return refusef(brokenCompression, "the body is not valid %s", c)
	}
}
