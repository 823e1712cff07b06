package main

import (
	"io/fs"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"usaged/dashboards"
)

// TestShippedIsGenerated renders everything again.
func TestShippedIsGenerated(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := render(string(page))
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := fs.Glob(dashboards.FS, "*.json")
	if err != nil || len(shipped) != len(files) {
		t.Errorf("shipped are %v, %v; want %d", shipped, err, len(files))
	}
	for name, want := range files {
		got, err := fs.ReadFile(dashboards.FS, name)
		if err != nil {
			t.Errorf("make dashboards writes %s: %v", name, err)
		} else if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s is not what make dashboards writes (-want +got):\n%.2000s", name, diff)
		}
	}
}

// TestRunbooks expects a page of text without links that lead out of Grafana, and an alert for each link to it.
func TestRunbooks(t *testing.T) {
	t.Parallel()
	books, err := readRunbooks("# Title\n\n## One\n\nSee [two](#two), `a[0]` and [three](b.md).\n\n## Two\n\nNo link.\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"One", "See two, `a[0]` and three.", "Two", "No link."},
		[]string{books[0].alert, books[0].text, books[1].alert, books[1].text}); diff != "" {
		t.Error(diff)
	}
	if got := books.link("Two").url; got != "/d/usaged-runbooks?viewPanel=panel-2" {
		t.Errorf("the second leads to %s", got)
	}
	if _, err := readRunbooks("nothing"); err == nil {
		t.Error("a page without sections is taken")
	}
}
