package api_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// description loads openapi.yaml as the API serves it.
func description(t testing.TB) (*openapi3.T, routers.Router) {
	t.Helper()
	rec := newRig(t).call("GET", "/api/v1/openapi.yaml", "", "")
	doc, err := openapi3.NewLoader().LoadFromData(rec.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return doc, router
}

func TestDescriptionIsValid(t *testing.T) {
	t.Parallel()
	doc, _ := description(t)
	if err := doc.Validate(context.Background(), openapi3.EnableExamplesValidation()); err != nil {
		t.Fatal(err)
	}
}

// TestDescriptionMatchesRoutes compares openapi.yaml with the index page, which lists the routes of the router.
func TestDescriptionMatchesRoutes(t *testing.T) {
	t.Parallel()
	doc, _ := description(t)
	var described []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	var routed []string
	for line := range strings.Lines(newRig(t).call("GET", "/", "", "").Body.String()) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], "/") {
			routed = append(routed, f[0]+" "+f[1])
		}
	}
	slices.Sort(described)
	slices.Sort(routed)
	if !slices.Equal(described, routed) {
		t.Errorf("described %q\nrouted    %q", described, routed)
	}
}

// TestDescribedRoles expects the description of an operation to name the roles that may call it.
func TestDescribedRoles(t *testing.T) {
	t.Parallel()
	doc, _ := description(t)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			want, known := rolesOfRoutes[method+" "+path]
			if !known {
				t.Errorf("%s %s has no row in rolesOfRoutes", method, path)
			}
			if want == "" {
				continue
			}
			if says := "Roles: " + strings.ReplaceAll(want, " ", ", ") + "."; !strings.Contains(op.Description, says) && path != events {
				t.Errorf("%s %s: the description does not say %q", method, path, says)
			}
		}
	}
}

// checkAnswer holds an answer against openapi.yaml.
func checkAnswer(t *testing.T, router routers.Router, req *http.Request, resp *http.Response, body []byte) {
	t.Helper()
	if req.Method == http.MethodHead {
		return // the description has no HEAD
	}
	probe := httptest.NewRequest(req.Method, req.URL.Path, http.NoBody)
	route, params, err := router.FindRoute(probe)
	if err != nil {
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: %v", req.Method, req.URL.Path, err)
		}
		return
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: probe, PathParams: params, Route: route},
		Status:                 resp.StatusCode, Header: resp.Header, Body: io.NopCloser(strings.NewReader(string(body))),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		t.Errorf("%s %s answers %d against its description: %v", req.Method, req.URL.Path, resp.StatusCode, err)
	}
}
