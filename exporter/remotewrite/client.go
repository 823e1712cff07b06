package remotewrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/storage/remote"
)

// client posts requests to one endpoint. It follows no redirect: most make a GET of a POST, and whatever answers that, as a page to log
// in on, would be taken for the receiver. The others would carry the credentials to a host that nobody has named.
type client struct {
	http    *http.Client
	url     string
	timeout time.Duration
	header  http.Header
	version remoteapi.WriteMessageType
}

func newClient(endpoint *config.RemoteWriteConfig) (*client, error) {
	// Prometheus' own client, for its authentication and TLS. It keeps statuses and Retry-After to itself, so requests are
	// made here.
	made, err := remote.NewWriteClient(Name(endpoint), &remote.ClientConfig{
		URL:              endpoint.URL,
		Timeout:          endpoint.RemoteTimeout,
		HTTPClientConfig: endpoint.HTTPClientConfig,
		SigV4Config:      endpoint.SigV4Config,
		AzureADConfig:    endpoint.AzureADConfig,
		GoogleIAMConfig:  endpoint.GoogleIAMConfig,
		Headers:          endpoint.Headers,
		RoundRobinDNS:    endpoint.RoundRobinDNS,
		WriteProtoMsg:    endpoint.ProtobufMessage,
	})
	if err != nil {
		return nil, err
	}
	its, ok := made.(*remote.Client)
	if !ok {
		return nil, errors.New("prometheus made a client of another kind")
	}
	sends := *its.Client
	sends.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &client{
		http:    &sends,
		url:     endpoint.URL.String(),
		timeout: time.Duration(endpoint.RemoteTimeout),
		version: endpoint.ProtobufMessage,
		header: http.Header{
			"Content-Encoding":                  {"snappy"},
			"Content-Type":                      {"application/x-protobuf"},
			"User-Agent":                        {"usaged " + remote.UserAgent},
			"X-Prometheus-Remote-Write-Version": {remote.RemoteWriteVersion1HeaderValue},
		},
	}
	if c.isV2() {
		c.header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		c.header.Set("X-Prometheus-Remote-Write-Version", remote.RemoteWriteVersion20HeaderValue)
	}
	return c, nil
}

func (c *client) isV2() bool { return c.version == remoteapi.WriteV2MessageType }

// answer is what a receiver said.
type answer struct {
	written    remote.WriteResponseStats
	status     int
	retryAfter time.Duration
	text       string
	location   string // where a redirect leads, without a password and without its query
}

func (a *answer) ok() bool { return a.status/100 == 2 }

// final says that the receiver will never take this request, for what is in it. Other refusals are about the way to it: a
// password that has expired, a proxy that has no route or is overloaded. They end, and the samples can wait.
func (a *answer) final() bool {
	if a.status/100 == 5 || a.isTooEarly() {
		return false
	}
	switch a.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusProxyAuthRequired,
		http.StatusRequestTimeout, http.StatusGone, http.StatusUnsupportedMediaType, http.StatusTooManyRequests:
		return false
	}
	return a.status/100 == 4
}

// isTooEarly says that the receiver, or a proxy before it, has put the request off.
func (a *answer) isTooEarly() bool {
	return a.status == http.StatusLocked || a.status == http.StatusTooEarly
}

// isTooLarge says that the request has too many bytes, which says nothing about the samples in it.
func (a *answer) isTooLarge() bool { return a.status == http.StatusRequestEntityTooLarge }

// noHistograms recognizes a Prometheus before 3.0 in which native histograms are switched off, as they were by default. It
// calls that an error of its own, with status 500.
func (a *answer) noHistograms() bool {
	return !a.ok() && strings.Contains(a.text, "native histograms are disabled")
}

func (a *answer) Error() string {
	if a.location != "" {
		return fmt.Sprintf("the receiver answered %d, a redirect to %s, which is not followed: configure the URL that it leads to", a.status, a.location)
	}
	return fmt.Sprintf("the receiver answered %d: %s", a.status, a.text)
}

// post sends a request. The error says that no answer came.
func (c *client) post(ctx context.Context, body []byte) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = c.header.Clone()
	resp, err := c.http.Do(req)
	if cause, ok := errors.AsType[*url.Error](err); ok {
		err = cause.Err // without the URL, which may have a secret in it
	}
	if err != nil {
		return nil, fmt.Errorf("send a request: %w", err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // for the log alone
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	a := &answer{status: resp.StatusCode, text: strings.TrimSpace(string(text)), retryAfter: retryAfter(resp.Header.Get("Retry-After"))}
	if to, err := resp.Location(); err == nil && a.status/100 == 3 {
		a.location = redacted(to)
	}
	a.written, _ = remote.ParseWriteResponseStats(resp) // what cannot be read counts as not said
	return a, nil
}

// maxRetryAfter bounds how long a receiver can have us wait.
const maxRetryAfter = 5 * time.Minute

func retryAfter(header string) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil && seconds > 0 {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(header); err == nil {
		return min(max(time.Until(t), 0), maxRetryAfter)
	}
	return 0
}
