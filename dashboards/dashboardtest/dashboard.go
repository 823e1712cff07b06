// Package dashboardtest asks a Prometheus everything that the dashboards ask, as Grafana does, and makes weeks of history for
// it to answer from.
//
//	pages := dashboardtest.Read(t, dashboards.FS)
//	dashboardtest.History{…}.Write(t, dir)          // blocks of a TSDB
//	err := dashboardtest.Ask(t, api, time.Now(), pages) // what fails or has an empty answer
package dashboardtest

import (
	"encoding/json"
	"io/fs"
	"testing"
)

// Page is a dashboard, as far as it asks something.
type Page struct {
	UID, Title  string
	Time        struct{ From string }
	Panels      []Panel
	Templating  struct{ List []Variable }
	Annotations struct{ List []Annotation }
}

// Panel is a panel. A row has the panels that are folded away in it.
type Panel struct {
	Type, Title, Interval, TimeFrom string
	GridPos                         struct{ W float64 }
	Targets                         []Target
	Panels                          []Panel
}

// Target is a query.
type Target struct {
	Expr, RefID, Interval, LegendFormat string
	Instant                             bool
}

// Variable is a variable of a page.
type Variable struct {
	Name, Type, AllValue, Definition string
	Multi                            bool
	Current                          struct{ Value string }
}

// Annotation is what marks moments in all graphs of a page.
type Annotation struct {
	Name, TitleFormat, TextFormat string
	Target                        Target
}

// Read reads all dashboards in a file system.
func Read(tb testing.TB, fsys fs.FS) (pages []Page) {
	tb.Helper()
	names, err := fs.Glob(fsys, "*.json")
	if err != nil || len(names) == 0 {
		tb.Fatalf("dashboards %v, %v; want some", names, err)
	}
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			tb.Fatal(err)
		}
		var p Page
		if err := json.Unmarshal(data, &p); err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		pages = append(pages, p)
	}
	return pages
}

// All returns the panels of a page, also those in rows.
func (p *Page) All() (list []Panel) {
	for _, panel := range p.Panels {
		list = append(list, panel)
		list = append(list, panel.Panels...)
	}
	return list
}
