package main

import (
	"strconv"

	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// The colours that are used with a meaning.
const (
	good  = "green"
	watch = "#EAB839"
	bad   = "orange"
	worst = "red"
	plain = "blue"
	faint = "text"
	gray  = "#8e8e8e"
)

// failed colours the part that failed, by the thresholds of the score.
var failed = []step{{0, good}, {0.01, watch}, {0.05, bad}, {0.1, worst}}

// joined makes one table of several queries, by the labels that they have in common.
func joined() dashboard.DataTransformerConfig {
	return dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}}
}

// titled names the columns of a table and brings them into their order.
func titled(order []string, names map[string]string) dashboard.DataTransformerConfig {
	index, excluded := map[string]int{}, map[string]bool{"Time": true, "__name__": true}
	for i, column := range order {
		index[column] = i
	}
	return dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
		"excludeByName": excluded, "indexByName": index, "renameByName": names, "includeByName": map[string]bool{},
	}}
}

// largestFirst and smallestFirst sort a table by a column.
func largestFirst(column string) dashboard.DataTransformerConfig  { return sorted(column, true) }
func smallestFirst(column string) dashboard.DataTransformerConfig { return sorted(column, false) }

func sorted(column string, desc bool) dashboard.DataTransformerConfig {
	return dashboard.DataTransformerConfig{Id: "sortBy", Options: map[string]any{
		"fields": map[string]any{}, "sort": []map[string]any{{"field": column, "desc": desc}},
	}}
}

// column gives a column a unit, and colours its text by steps where there are some.
func column(name, unit string, steps ...step) override {
	o := override{name: name, properties: []dashboard.DynamicConfigValue{property("unit", unit)}}
	if unit == "percentunit" {
		o.properties = append(o.properties, property("decimals", 1))
	}
	if len(steps) > 0 {
		o.properties = append(o.properties, property("thresholds", thresholds(steps)),
			property("custom.cellOptions", map[string]any{"type": "color-text"}))
	}
	return o
}

// bar draws a column as bars.
func bar(name, unit string) override {
	return override{name: name, properties: []dashboard.DynamicConfigValue{
		property("unit", unit), property("min", 0), property("fieldMinMax", true), // its own largest value is a full bar
		property("custom.cellOptions", map[string]any{"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}),
		property("color", map[string]any{"mode": "fixed", "fixedColor": plain}),
	}}
}

// grows makes a value of a panel of numbers the growth against what was before.
func grows(name string) override {
	return override{name: name, properties: []dashboard.DynamicConfigValue{
		property("unit", "percentunit"), property("decimals", 1), property("thresholds", thresholds(change)),
	}}
}

// fails makes one the part that failed.
func fails(name string) override {
	return override{name: name, properties: []dashboard.DynamicConfigValue{
		property("unit", "percentunit"), property("decimals", 1), property("thresholds", thresholds(failed)),
	}}
}

// words writes numbers 0, 1, … as words, each in its colour.
func words(list ...[2]string) []dashboard.ValueMapping {
	m := dashboard.ValueMap{Type: dashboard.MappingTypeValueToText, Options: map[string]dashboard.ValueMappingResult{}}
	for i, w := range list {
		m.Options[strconv.Itoa(i)] = dashboard.ValueMappingResult{Text: &w[0], Color: &w[1], Index: ptr(int32(i))}
	}
	return []dashboard.ValueMapping{{ValueMap: &m}}
}

// ago writes a time in milliseconds as how long ago it is, without a colour.
func ago(name string) override {
	return override{name: name, properties: []dashboard.DynamicConfigValue{
		property("unit", "dateTimeFromNow"), property("color", map[string]any{"mode": "fixed", "fixedColor": "transparent"}),
	}}
}

// modes are the values of usage:health:mode.
func modes() []dashboard.ValueMapping {
	list := words([2]string{"normal", good}, [2]string{"watch", watch}, [2]string{"degraded", bad}, [2]string{"critical", worst})
	text, color := "not judged", plain
	list[0].ValueMap.Options["-1"] = dashboard.ValueMappingResult{Text: &text, Color: &color, Index: ptr(int32(4))}
	return list
}

// upTo keeps an axis from blowing up what is next to nothing.
func upTo(v float64) override {
	return override{name: "/.*/", properties: []dashboard.DynamicConfigValue{property("custom.axisSoftMax", v)}}
}

// dashed lets a line be seen that lies on it.
func dashed() dashboard.DynamicConfigValue {
	return property("custom.lineStyle", map[string]any{"fill": string(common.LineStyleFillDash), "dash": []int{6, 6}})
}

// fixed gives a series a colour, whatever others there are.
func fixed(name, color string, more ...dashboard.DynamicConfigValue) override {
	return override{name: name, properties: append([]dashboard.DynamicConfigValue{
		property("color", map[string]any{"mode": "fixed", "fixedColor": color}),
	}, more...)}
}
