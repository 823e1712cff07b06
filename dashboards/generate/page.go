package main

import (
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// columns is the width of Grafana's grid. On a laptop, 1366 pixels wide, a column has 54 of them.
const columns = 24

// page is a dashboard whose panels are laid out from left to right, line by line. All panels of a line have one height.
type page struct {
	name, title, about string
	from, refresh      string
	variables          []cog.Builder[dashboard.VariableModel]
	textAlone          bool // so that nothing needs marking
	everyMode          bool // marks each change of the mode

	items  []item
	x, y   uint32
	height uint32
	lastID uint32
}

// item is a panel, or a row with the panels that are folded away in it.
type item struct {
	panel  *panel
	row    string
	folded []*panel
	at     dashboard.GridPos
	id     uint32
}

// uid is how links and bookmarks know a dashboard, for good.
func (p *page) uid() string { return "usaged-" + p.name }

// row begins a line with a heading.
func (p *page) row(title string) {
	p.endLine()
	p.items = append(p.items, item{row: title, at: dashboard.GridPos{W: columns, H: 1, Y: p.y}, id: p.nextID()})
	p.y++
}

// folded adds a row that is closed until somebody opens it.
func (p *page) folded(title string, lines ...line) {
	p.endLine()
	row := item{row: title, at: dashboard.GridPos{W: columns, H: 1, Y: p.y}, id: p.nextID()}
	y := p.y + 1
	for _, l := range lines {
		x := uint32(0)
		for _, c := range l.cells {
			c.panel.id = p.nextID()
			c.panel.at = dashboard.GridPos{X: x, Y: y, W: c.width, H: l.height}
			x += c.width
			row.folded = append(row.folded, c.panel)
		}
		y += l.height
	}
	p.items = append(p.items, row)
	p.y++
}

// line is panels beside each other.
type line struct {
	height uint32
	cells  []cell
}

type cell struct {
	width uint32
	panel *panel
}

// add puts a line of panels below what is there.
func (p *page) add(height uint32, cells ...cell) {
	p.endLine()
	p.height = height
	for _, c := range cells {
		c.panel.id = p.nextID()
		c.panel.at = dashboard.GridPos{X: p.x, Y: p.y, W: c.width, H: height}
		p.items = append(p.items, item{panel: c.panel})
		p.x += c.width
	}
}

func (p *page) endLine() {
	p.x, p.y, p.height = 0, p.y+p.height, 0
}

func (p *page) nextID() uint32 {
	p.lastID++
	return p.lastID
}

// classic is Grafana's classic schema: file provisioning takes no other.
type classic = dashboard.Dashboard //nolint:staticcheck // the SDK prefers the schema that cannot be provisioned from files

func (p *page) build() (classic, error) {
	b := dashboard.NewDashboardBuilder(p.title) //nolint:staticcheck // see classic
	b.Uid(p.uid()).Description(p.about).Tags([]string{tag}).
		Readonly().Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Time(p.from, "now").Refresh(p.refresh).Timezone("browser").WeekStart("monday").
		Variables(append([]cog.Builder[dashboard.VariableModel]{dataSourceVariable()}, p.variables...)).
		Links(links())
	if !p.textAlone {
		b.Annotations(annotations(p.everyMode))
	}
	d, err := b.Build()
	if err != nil {
		return d, fmt.Errorf("frame: %w", err)
	}
	for i := range d.Links {
		d.Links[i].Placement = nil // in sight, and not in a menu
	}
	for _, it := range p.items {
		entry, err := it.build()
		if err != nil {
			return d, err
		}
		d.Panels = append(d.Panels, entry)
	}
	return d, d.Validate()
}

func (it item) build() (entry dashboard.PanelOrRowPanel, err error) {
	if it.panel != nil {
		entry.Panel, err = it.panel.build()
		return entry, err
	}
	row := dashboard.RowPanel{Type: "row", Title: &it.row, Id: it.id, GridPos: &it.at, Collapsed: len(it.folded) > 0, Panels: []dashboard.Panel{}}
	for _, f := range it.folded {
		built, err := f.build()
		if err != nil {
			return entry, err
		}
		row.Panels = append(row.Panels, *built)
	}
	entry.RowPanel = &row
	return entry, nil
}

// source is the data source that the reader has chosen.
func source() common.DataSourceRef {
	kind, uid := "prometheus", "${datasource}"
	return common.DataSourceRef{Type: &kind, Uid: &uid}
}
