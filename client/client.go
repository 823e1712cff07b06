// Package client talks to usaged's HTTP API: it sends usage events and reads the figures.
//
// What it guarantees:
//
//   - When [Client.Send] returns nil the events are durable on the server. When it returns an error the server has
//     refused all of them, or its answer never came; sending the same events again is then harmless within 24 hours,
//     because every event goes out with an id and the server counts an id once.
//   - A request that met an overloaded or restarting server (429, 502, 503, 504, a broken connection) is tried again
//     after the pause that the server asks for, until [Config.RetryFor] has passed or the context ends.
//   - No error text contains the token.
//
// A Client is safe for concurrent use.
//
//	c, err := client.New(client.Config{URL: "http://127.0.0.1:8080", Token: token})
//	if err != nil { … }
//	err = c.Send(ctx, []client.Event{{Type: "dashboard_publish", UserID: "ann", Metadata: map[string]string{"dashboard_id": "sales"}}})
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	defaultRetryFor         = 30 * time.Second
	defaultTimeout          = 30 * time.Second
	defaultMaxResponseBytes = 256 << 20
	userAgent               = "usaged-client"
)

// Config says where the server is and how patiently to talk to it.
type Config struct {
	// URL is the server's base URL, such as http://127.0.0.1:8080. Required. The path of a proxy's prefix is kept.
	URL string
	// Token is the bearer token; empty sends none.
	Token string
	// HTTPClient is used as it is, except that redirects are never followed. Nil means one with connection reuse for
	// 64 concurrent requests and a timeout of 30 s for each try.
	HTTPClient *http.Client
	// RetryFor bounds the time during which a request is tried again. 0 means 30 s, negative means a single try.
	RetryFor time.Duration
	// Compression of request bodies: [None], [Gzip] or [Zstd]. The zero value is None.
	Compression Compression
	// MaxResponseBytes bounds how much of an answer is read. 0 means 256 MiB.
	MaxResponseBytes int64
	// UserAgent replaces "usaged-client".
	UserAgent string
}

// Client sends events to one server and reads from it.
type Client struct {
	base     *url.URL
	token    string
	http     *http.Client
	retryFor time.Duration
	encode   Compression
	maxBytes int64
	agent    string
}

// New returns a client. It does not connect.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("the server's URL cannot be parsed") // the cause would repeat what may hold a password
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("the server's URL must look like http://host:port, not %q", base.Redacted())
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("the server's URL must have no user, query or fragment: the token goes elsewhere")
	}
	if strings.ContainsFunc(cfg.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("the token holds blanks or characters that no token has")
	}
	if !cfg.Compression.valid() {
		return nil, fmt.Errorf("unknown compression %q: use gzip or zstd", cfg.Compression)
	}
	base.Path = strings.TrimRight(base.Path, "/")
	c := &Client{
		base:     base,
		token:    cfg.Token,
		http:     httpClient(cfg.HTTPClient),
		retryFor: orDefault(cfg.RetryFor, defaultRetryFor),
		encode:   cfg.Compression,
		maxBytes: orDefault(cfg.MaxResponseBytes, defaultMaxResponseBytes),
		agent:    orDefault(cfg.UserAgent, userAgent),
	}
	return c, nil
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

// httpClient returns the caller's client, or one of our own, that does not follow redirects: following one would send
// the token and the events where the caller did not mean them to go.
func httpClient(given *http.Client) *http.Client {
	own := http.Client{Timeout: defaultTimeout}
	if given != nil {
		own = *given
	} else {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConns = 64
		transport.MaxIdleConnsPerHost = 64
		own.Transport = transport
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// URL is the server's base URL.
func (c *Client) URL() string { return c.base.String() }

// Close closes idle connections. Requests under way are not touched.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Answer is the whole of a successful response.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Get reads a path below the base URL, such as /api/v1/usage/summary, and returns the answer as it came. ETag adds
// If-None-Match where it is not empty; an unchanged answer has status 304 and no body. Anything else that is not 2xx
// is a [*Problem].
func (c *Client) Get(ctx context.Context, path string, query url.Values, etag string) (*Answer, error) {
	header := http.Header{}
	if etag != "" {
		header.Set("If-None-Match", etag)
	}
	return c.do(ctx, request{method: http.MethodGet, path: path, query: query, header: header})
}

// GetAs is Get for an answer in another form than JSON, such as text/csv. A server that has no such form is an error.
func (c *Client) GetAs(ctx context.Context, path string, query url.Values, mediaType string) (*Answer, error) {
	answer, err := c.do(ctx, request{method: http.MethodGet, path: path, query: query, header: http.Header{"Accept": {mediaType}}})
	if err != nil {
		return nil, err
	}
	if got, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type")); got != mediaType {
		return nil, fmt.Errorf("GET %s: the server answers with %s where %s was asked for", path, orDefault(got, "no media type"), mediaType)
	}
	return answer, nil
}

// Reload makes the server read its tokens and its other files again. Where it cannot, what was in force stays in force and
// the error is a [*Problem] that says why.
func (c *Client) Reload(ctx context.Context) error {
	_, err := c.do(ctx, request{method: http.MethodPost, path: reloadPath})
	return err
}

// request is what is needed to make an http.Request again for each try.
type request struct {
	method string
	path   string
	query  url.Values
	header http.Header
	body   []byte
}

// do tries a request until it is answered for good.
func (c *Client) do(ctx context.Context, req request) (*Answer, error) {
	var last error
	try := func() (*Answer, error) {
		answer, err := c.once(ctx, req)
		last = err
		return answer, forBackoff(ctx, err)
	}
	options := []backoff.RetryOption{backoff.WithMaxElapsedTime(c.retryFor)}
	if c.retryFor < 0 {
		options = append(options, backoff.WithMaxTries(1))
	}
	answer, err := backoff.Retry(ctx, try, options...)
	if err == nil {
		return answer, nil
	}
	if cause := context.Cause(ctx); cause != nil && last != nil && !errors.Is(last, cause) {
		return nil, fmt.Errorf("%w (the last try: %w)", cause, last)
	}
	if last == nil {
		return nil, err
	}
	return nil, last
}

// forBackoff says to the retry loop what an error means: final, to be tried again, or to be tried again after the
// pause that the server named.
func forBackoff(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return backoff.Permanent(err)
	}
	if _, ok := errors.AsType[*Unreachable](err); ok {
		return err
	}
	problem, ok := errors.AsType[*Problem](err)
	switch {
	case !ok || !problem.Temporary():
		return backoff.Permanent(err)
	case problem.RetryAfter > 0:
		return &backoff.RetryAfterError{Duration: problem.RetryAfter}
	}
	return err
}

// Unreachable is the error of a request that no complete HTTP answer came to: nobody listens, the connection broke, the
// server took too long.
type Unreachable struct {
	Method, Path string
	Err          error
}

func (u *Unreachable) Error() string {
	return fmt.Sprintf("%s %s: no answer: %v", u.Method, u.Path, u.Err)
}

func (u *Unreachable) Unwrap() error { return u.Err }

// newRequest makes an http.Request with everything that the server wants.
func (c *Client) newRequest(ctx context.Context, req request) (*http.Request, error) {
	target := *c.base
	target.Path += req.path
	target.RawQuery = req.query.Encode()
	hreq, err := http.NewRequestWithContext(ctx, req.method, target.String(), bodyReader(req.body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	for name, values := range req.header {
		hreq.Header[name] = values
	}
	hreq.Header.Set("User-Agent", c.agent)
	if c.token != "" {
		hreq.Header.Set("Authorization", "Bearer "+c.token)
	}
	return hreq, nil
}

// once makes one try.
func (c *Client) once(ctx context.Context, req request) (*Answer, error) {
	hreq, err := c.newRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(hreq)
	if err != nil {
		return nil, unreachable(ctx, req, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, c.maxBytes+1))
	if err != nil {
		return nil, unreachable(ctx, req, err)
	}
	if int64(len(body)) > c.maxBytes {
		return nil, fmt.Errorf("%s %s: the answer is larger than %d bytes", req.method, req.path, c.maxBytes)
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusNotModified {
		return &Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
	}
	return nil, newProblem(resp, body)
}

// unreachable wraps a transport error. A context that ended is the caller's doing and not the server's.
func unreachable(ctx context.Context, req request, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // the wrapping repeats the URL
	}
	return &Unreachable{Method: req.method, Path: req.path, Err: err}
}
