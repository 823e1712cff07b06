package dashboards_test

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestLayout holds what a reader on a laptop needs: nothing overlaps, no line has a gap, no panel is narrower than what it says.
func TestLayout(t *testing.T) {
	t.Parallel()
	for _, s := range sheets(t) {
		if s.Description == "" || !strings.HasPrefix(s.UID, "usaged-") || s.SchemaVersion < 41 {
			t.Errorf("%s: uid %q, description %q, schema %d", s.Title, s.UID, s.Description, s.SchemaVersion)
		}
		taken := map[[2]int]string{}
		ids := map[int]bool{}
		for _, p := range s.all() {
			if ids[p.ID] {
				t.Errorf("%s: two panels have the id %d", s.Title, p.ID)
			}
			ids[p.ID] = true
			if p.Type != "row" && p.GridPos.W < 4 || p.GridPos.X+p.GridPos.W > 24 {
				t.Errorf("%s, panel %q: %d columns at %d", s.Title, p.Title, p.GridPos.W, p.GridPos.X)
			}
		}
		for _, p := range s.Panels {
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" {
						t.Errorf("%s: %q lies over %q", s.Title, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title + " "
				}
			}
		}
		checkGaps(t, s, taken)
	}
}

func checkGaps(t *testing.T, s *sheet, taken map[[2]int]string) {
	t.Helper()
	last := 0
	for at := range taken {
		last = max(last, at[1])
	}
	for y := 0; y <= last; y++ {
		for x := range 24 {
			if taken[[2]int{x, y}] == "" && (s.UID != "usaged-runbooks" || x < 12) {
				t.Errorf("%s: there is a gap in line %d at column %d", s.Title, y, x)
				return
			}
		}
	}
}

// TestPanelTypes expects none that Grafana has replaced.
func TestPanelTypes(t *testing.T) {
	t.Parallel()
	current := []string{"row", "stat", "gauge", "bargauge", "timeseries", "state-timeline", "table", "text"}
	for _, s := range sheets(t) {
		for _, p := range s.all() {
			if !slices.Contains(current, p.Type) {
				t.Errorf("%s, panel %q is a %s", s.Title, p.Title, p.Type)
			}
		}
	}
}

// TestLinksLead follows the links between dashboards, and to runbooks by the number of a panel.
func TestLinksLead(t *testing.T) {
	t.Parallel()
	pages := map[string]*sheet{}
	for _, s := range sheets(t) {
		pages[s.UID] = s
	}
	target := regexp.MustCompile(`^/d/([a-z0-9-]+)(?:\?viewPanel=panel-(\d+)|\?\$\{datasource:queryparam\}&\$\{__url_time_range\})?$`)
	follow := func(from, url string) {
		m := target.FindStringSubmatch(url)
		if m == nil || pages[m[1]] == nil {
			t.Errorf("%s links to %s, which leads nowhere", from, url)
			return
		}
		id, _ := strconv.Atoi(m[2]) // nothing is the page as a whole
		if m[2] != "" && !slices.ContainsFunc(pages[m[1]].all(), func(p *drawn) bool { return p.ID == id }) {
			t.Errorf("%s links to panel %d of %s, which it does not have", from, id, m[1])
		}
	}
	for _, s := range sheets(t) {
		for _, l := range s.Links {
			if l.Type == "link" {
				follow(s.Title, l.URL)
			}
		}
		for _, p := range s.all() {
			for _, l := range p.Links {
				follow(s.Title+", panel "+p.Title, l.URL)
			}
		}
	}
}
