package client

import (
	"context"
	"net/http"
	"net/url"
)

// Paths of the values of labels.
const (
	LabelsPath    = "/api/v1/usage/labels"
	freeLabelPath = LabelsPath + "/free"
)

// Labels are the labels of a server's usage metrics.
type Labels struct {
	Labels []Label `json:"labels"`
}

// Label is one of them. Limit values can take room; Used do.
type Label struct {
	Label  string   `json:"label"`
	Used   int      `json:"used"`
	Limit  int      `json:"limit"`
	Values []string `json:"values"`
	// Freed are those of Values that take no room.
	Freed []string `json:"freed"`
}

// Labels reads the labels of the server's usage metrics.
func (c *Client) Labels(ctx context.Context) (*Labels, error) {
	return read[Labels](ctx, c, LabelsPath, Query{})
}

// FreeLabel gives the room of a value to others, in every label that has it.
func (c *Client) FreeLabel(ctx context.Context, value string) (*Labels, error) {
	answer, err := c.do(ctx, request{method: http.MethodPost, path: freeLabelPath, query: url.Values{"value": {value}}})
	if err != nil {
		return nil, err
	}
	return parse[Labels](freeLabelPath, answer)
}
