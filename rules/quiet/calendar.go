package quiet

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // time zones have names on machines without them, too

	"go.yaml.in/yaml/v3"

	"usaged/aggregator/yamlfile"
)

// file is the form of a calendar:
//
//	time_zone: Europe/Vienna       # of the times below; UTC where it is left out
//	once:
//	  - {from: 2026-12-24 14:00, until: 2026-12-27 06:00, reason: Christmas}
//	weekly:
//	  - {days: [sat, sun], from: 00:00, until: 24:00, event_types: [dashboard_publish], reason: nobody publishes}
type file struct {
	TimeZone string       `yaml:"time_zone"`
	Once     []fileOnce   `yaml:"once"`
	Weekly   []fileWeekly `yaml:"weekly"`
}

type fileOnce struct {
	From       string   `yaml:"from"`
	Until      string   `yaml:"until"`
	EventTypes []string `yaml:"event_types"`
	Reason     string   `yaml:"reason"`
	TimeZone   string   `yaml:"time_zone"`
}

type fileWeekly struct {
	Days     []string `yaml:"days"`
	fileOnce `yaml:",inline"`
}

// planned is an entry of the calendar.
type planned struct {
	Entry
	// Of a weekly one: the days on which it begins, when, and how long after midnight of that day it ends, by the clock on the wall.
	days        [7]bool
	begin, end  clock
	nextMorning bool // end is of the day after
	zone        *time.Location
}

// clock is a time of day.
type clock struct{ hour, minute int }

func (c clock) on(y int, m time.Month, d int, zone *time.Location) time.Time {
	return time.Date(y, m, d, c.hour, c.minute, 0, 0, zone)
}

// at returns the entry, of a weekly one the occurrence that lasts at a time or comes next.
func (p *planned) at(now time.Time) Entry {
	e := p.Entry
	if !e.Weekly {
		return e
	}
	y, m, d := now.In(p.zone).Date()
	for i := -1; i <= 7; i++ { // one that began yesterday may last
		day, after := d+i, d+i
		if p.nextMorning {
			after++
		}
		e.From, e.Until = p.begin.on(y, m, day, p.zone), p.end.on(y, m, after, p.zone)
		if p.days[time.Date(y, m, day, 12, 0, 0, 0, time.UTC).Weekday()] && now.Before(e.Until) {
			break
		}
	}
	return e
}

// load reads a calendar, none where path is empty. The error has a line for each fault: file, line and reason.
func load(path string) ([]planned, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--quiet.file: %w", err)
	}
	c := calendar{yamlfile.Parse(path, data)}
	list := c.parse()
	if err := c.Err(); err != nil {
		return nil, err
	}
	return list, nil
}

// calendar is a file that is being read.
type calendar struct{ *yamlfile.File }

func (c calendar) parse() (list []planned) {
	var f file
	c.Decode(&f)
	if c.Err() != nil { // what could be read may not be where it stands in the file
		return nil
	}
	zone := c.zone(f.TimeZone, yamlfile.Line(c.Root, "time_zone"))
	if n := len(f.Once) + len(f.Weekly); n > MaxEntries {
		c.Fault(1, "there are %d quiet times: at most %d can be planned", n, MaxEntries)
	}
	for i, e := range f.Once {
		list = append(list, c.once(&e, zone, yamlfile.Lookup(c.Root, "once").Content[i]))
	}
	for i, e := range f.Weekly {
		list = append(list, c.weekly(&e, zone, yamlfile.Lookup(c.Root, "weekly").Content[i]))
	}
	return list
}

// common reads what both kinds have.
func (c calendar) common(e *fileOnce, zone *time.Location, node *yaml.Node) planned {
	p := planned{zone: zone}
	p.Line, p.Reason = node.Line, e.Reason
	p.Types = slices.Compact(slices.Sorted(slices.Values(e.EventTypes)))
	if e.TimeZone != "" {
		p.zone = c.zone(e.TimeZone, yamlfile.Line(node, "time_zone"))
	}
	for _, f := range checkTypes(e.EventTypes) {
		c.Fault(yamlfile.Line(node, "event_types"), "event_types: %s", f.Reason)
	}
	for _, f := range checkReason(e.Reason) {
		c.Fault(yamlfile.Line(node, "reason"), "reason: %s", f.Reason)
	}
	return p
}

func (c calendar) once(e *fileOnce, zone *time.Location, node *yaml.Node) planned {
	p := c.common(e, zone, node)
	p.From, p.Until = c.moment(e.From, "from", p.zone, node), c.moment(e.Until, "until", p.zone, node)
	if !p.From.IsZero() && !p.Until.IsZero() && !p.Until.After(p.From) {
		c.Fault(yamlfile.Line(node, "until"), "until: the end must lie behind the beginning")
	}
	return p
}

func (c calendar) weekly(e *fileWeekly, zone *time.Location, node *yaml.Node) planned {
	p := c.common(&e.fileOnce, zone, node)
	p.Weekly = true
	if len(e.Days) == 0 {
		p.days = [7]bool{true, true, true, true, true, true, true}
		if days := yamlfile.Lookup(node, "days"); days != nil {
			c.Fault(days.Line, "days: name some, or leave it out for every day")
		}
	}
	for _, name := range e.Days {
		day := slices.IndexFunc(weekdays, func(d string) bool { return d == name })
		if day < 0 {
			c.Fault(yamlfile.Line(node, "days"), "days: %q is none of %s", name, strings.Join(weekdays, ", "))
			continue
		}
		p.days[day] = true
	}
	p.begin, p.end = c.clock(e.From, "from", node), c.clock(e.Until, "until", node)
	if p.begin == (clock{24, 0}) {
		c.Fault(yamlfile.Line(node, "from"), "from: a day begins at 00:00")
	}
	p.nextMorning = p.end.hour*60+p.end.minute <= p.begin.hour*60+p.begin.minute
	return p
}

// weekdays as a calendar names them, in the order of time.Weekday.
var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// layouts are the forms of a moment beside RFC 3339, in the time zone of the entry. A date alone is its first moment.
var layouts = []string{"2006-01-02 15:04", "2006-01-02T15:04", time.DateTime, time.DateOnly}

func (c calendar) moment(text, field string, zone *time.Location, node *yaml.Node) time.Time {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t
		}
	}
	c.Fault(yamlfile.Line(node, field), "%s: %q is no time, as 2026-12-24 14:00", field, text)
	return time.Time{}
}

var clockForm = regexp.MustCompile(`^([01]?\d|2[0-4]):([0-5]\d)$`)

func (c calendar) clock(text, field string, node *yaml.Node) clock {
	m := clockForm.FindStringSubmatch(text)
	if m == nil || strings.HasPrefix(text, "24:") && text != "24:00" {
		c.Fault(yamlfile.Line(node, field), "%s: %q is no time of day, as 18:30", field, text)
		return clock{}
	}
	hour, _ := strconv.Atoi(m[1]) // digits
	minute, _ := strconv.Atoi(m[2])
	return clock{hour, minute}
}

func (c calendar) zone(name string, line int) *time.Location {
	zone, err := time.LoadLocation(name) // UTC where it is empty
	if err != nil || name == "Local" {
		c.Fault(line, "time_zone: %q is not known, name one as Europe/Vienna", name)
		return time.UTC
	}
	return zone
}
