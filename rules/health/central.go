package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
)

// Central asks a Prometheus, or what speaks its HTTP API, that evaluates the rules for all replicas. It is safe for concurrent
// use.
type Central struct {
	api  v1.API
	name string
}

// OpenCentral returns a Central for the base URL of the API, to which /api/v1/query is added. File has what is needed beside
// it, such as a token, headers and TLS, in the format of promtool's --http.config.file; empty: nothing is. It asks nothing yet.
func OpenCentral(address, file string) (*Central, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("--health.prometheus-url: must be http://host… or https://host…") // without what was given, which may hold a password
	}
	client := &http.Client{}
	if file != "" {
		settings, _, err := config.LoadHTTPConfigFile(file)
		if err != nil {
			return nil, fmt.Errorf("--health.http-config-file: %s: %w", file, err)
		}
		if client, err = config.NewClientFromConfig(*settings, "health", config.WithUserAgent("usaged")); err != nil {
			return nil, fmt.Errorf("--health.http-config-file: %s: %w", file, err)
		}
	}
	c, err := api.NewClient(api.Config{Address: address, Client: client})
	if err != nil {
		return nil, fmt.Errorf("--health.prometheus-url: %w", err)
	}
	u.User = nil
	return &Central{api: v1.NewAPI(c), name: u.String()}, nil
}

// String names it, without a password.
func (c *Central) String() string { return "the Prometheus at " + c.name }

// Query implements Querier.
func (c *Central) Query(ctx context.Context, expr string, at time.Time) (model.Vector, error) {
	value, _, _, err := c.api.Query(ctx, expr, at)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("query: the answer is a %s, not a vector", value.Type())
	}
	return vector, nil
}
