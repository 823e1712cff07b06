package health

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// because says in words why nothing is known.
func (f *facts) because(reason string) string {
	switch reason {
	case "lag":
		return "Accepted events are not counted in time, so that what is missing may be on its way."
	case "quiet":
		return "A planned quiet time lasts, or lies within the window by which activity is judged."
	case "start":
		return "It has just begun: the counters must be known for a quarter of an hour, for an hour or more of slower types."
	case "weeks":
		return fmt.Sprintf("The same hour is known of fewer than %s of the past four weeks.", count(f.value("usage:activity:weeks", "", "", 2)))
	case "days":
		return "It is not known yet how much the events go up and down: five days that can be compared with past weeks are needed."
	case "few":
		return "Too few events are expected to tell a drop in any window."
	case "no_data":
		return "There are no counters of events: nobody has sent any, or they are not scraped."
	case "replicas":
		return "Other replicas count events in the same store and are not scraped here: name a Prometheus that scrapes all of them with --health.prometheus-url."
	case "":
		return "The rules gave no reason."
	}
	return "The rules say: " + reason + "."
}

// nearlyAll is the score from which on nothing is worth a word.
const nearlyAll = 95

// summary says what lowers the score most.
func summary(s *Subject) string {
	if s.Mode == Unjudged && s.Score != nil && *s.Score >= nearlyAll {
		return "Activity is not judged now. All else is as usual."
	}
	if s.Mode == modes[0] && s.Score != nil && *s.Score >= nearlyAll {
		return "All is as usual."
	}
	worst := -1
	for i, c := range s.Components {
		if c.Value != nil && *c.Value < 1 && (worst < 0 || cost(c) > cost(s.Components[worst])) {
			worst = i
		}
	}
	if worst < 0 {
		return "All is as usual again; the mode gets better when it has stayed so."
	}
	return "Lowered by " + s.Components[worst].Name + ": " + s.Components[worst].Text
}

// cost is by how much a component lowers the logarithm of the score.
func cost(c Component) float64 { return -c.Weight * math.Log(max(*c.Value, 0.01)) }

// also says what is to be known beside what lowers the score.
func (f *facts) also(eventType string) (text string) {
	if eventType == AllTypes {
		for _, t := range f.types {
			if share := f.get("usage:health:major", t, ""); share != nil {
				text += fmt.Sprintf(" %s, which has %s of the events, is critical: so this is not normal.", t, percent(*share))
			}
		}
	}
	if part := f.get("usage:activity:accepted", eventType, "1"); part != nil {
		text += fmt.Sprintf(" A new normal was accepted in the last week: %s of what was expected.", percent(*part))
	}
	return text
}

// activityText says what is seen in a window, which part is missing where a drop is told, and how many times as many there are where a rise is.
func activityText(c *Component, dropped, rose *float64) string {
	if c.Observed == nil || c.Expected == nil {
		return "Nothing is expected at this time."
	}
	text := fmt.Sprintf("%s in %s; %s were expected", events(*c.Observed), last(c.Window), count(*c.Expected))
	if c.Lower != nil && c.Upper != nil {
		text += fmt.Sprintf(" (%s to %s)", count(*c.Lower), count(*c.Upper))
	}
	switch {
	case dropped != nil:
		return text + fmt.Sprintf(", so %s are missing.", percent(*dropped))
	case rose != nil:
		return text + ", so this is many, which lowers no score."
	}
	return text + "."
}

// dropped names the types that are less active than all together.
func (f *facts) dropped() string {
	type drop struct {
		name  string
		ratio float64
	}
	var drops []drop
	for _, t := range f.types {
		if v := f.value("usage:health:component", t, "activity", 1); v < 1 {
			drops = append(drops, drop{t, v})
		}
	}
	slices.SortStableFunc(drops, func(a, b drop) int {
		if a.ratio < b.ratio {
			return -1
		}
		return 1
	})
	var list []string
	for _, d := range drops[:min(3, len(drops))] {
		list = append(list, fmt.Sprintf("%s has %s of what would be no drop", d.name, percent(d.ratio)))
	}
	if len(drops) > 3 {
		list = append(list, fmt.Sprintf("%d more have less than usual", len(drops)-3))
	}
	if len(list) == 0 {
		return ""
	}
	return " Of the types, " + strings.Join(list, ", ") + "."
}

func failuresText(c *Component, failed, ended float64) string {
	if c.Observed == nil {
		return "No event of the last 15 minutes said how it ended."
	}
	if failed == 0 {
		return fmt.Sprintf("No failures among the last 15 minutes' events that say how they ended (%s).", count(math.Round(ended)))
	}
	return fmt.Sprintf("Failures in the last 15 minutes: %s of %s that say how they ended. With fifty usual events added that is %s%s.",
		count(math.Round(failed)), events(ended), percent(*c.Observed), upTo(c, percent))
}

func lagText(c *Component) string {
	switch {
	case c.Observed == nil:
		return "How far counting lags behind is not known."
	case *c.Observed < 1:
		return "Accepted events are counted within a second."
	}
	return fmt.Sprintf("The oldest event that is not counted yet was accepted %s seconds ago%s.", count(*c.Observed), upTo(c, count))
}

func policyText(c *Component) string {
	if c.Observed == nil || c.Expected == nil {
		return "Policy hits are not judged: there are none, fewer than 20 events came in the last hour, or fewer than two days are known."
	}
	return fmt.Sprintf("Policy hits in the last hour: %s of the events; %s is usual (%s to %s).",
		percent(*c.Observed), percent(*c.Expected), percent(value(c.Lower)), percent(value(c.Upper)))
}

// value is 0 where nothing is known.
func value(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}

func upTo(c *Component, format func(float64) string) string {
	if c.Upper == nil {
		return ""
	}
	return "; up to " + format(*c.Upper) + " is usual"
}

// last names a window.
func last(window string) string {
	words := map[string]string{"15m": "the last 15 minutes", "1h": "the last hour", "6h": "the last 6 hours", "1d": "the last day"}
	if text := words[window]; text != "" {
		return text
	}
	return "the last " + window
}

// events writes a number of events, which an increase need not have as a whole one.
func events(n float64) string {
	if text := count(math.Round(n)); text != "1" {
		return text + " events"
	}
	return "1 event"
}

// count writes a number for people: whole, with commas, and below ten with one digit behind the point where it has one.
func count(n float64) string {
	if rounded := math.Round(n*10) / 10; math.Abs(rounded) < 10 {
		return strconv.FormatFloat(rounded, 'f', -1, 64)
	}
	digits := strconv.FormatFloat(math.Round(n), 'f', 0, 64)
	for at := len(digits) - 3; at > 0 && digits[at-1] != '-'; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// percent writes a ratio with two digits behind the point, or one from a tenth on.
func percent(ratio float64) string {
	scale := 10000.0
	if ratio >= 0.1 {
		scale = 1000
	}
	return strconv.FormatFloat(math.Round(ratio*scale)/scale*100, 'g', 4, 64) + "%"
}
