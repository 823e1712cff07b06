package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/gauge"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/text"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

func lastValue() *common.ReduceDataOptionsBuilder {
	return common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})
}

func colored(mode dashboard.FieldColorModeId) cog.Builder[dashboard.FieldColor] {
	return dashboard.NewFieldColorBuilder().Mode(mode)
}

// number is one large number; with a curve behind it where the query is one.
func number() cog.Builder[dashboard.Panel] {
	return stat.NewPanelBuilder().ReduceOptions(lastValue()).Orientation(common.VizOrientationAuto).
		ColorMode(common.BigValueColorModeValue).GraphMode(common.BigValueGraphModeArea).
		JustifyMode(common.BigValueJustifyModeCenter).TextMode(common.BigValueTextModeAuto).
		ColorScheme(colored(dashboard.FieldColorModeIdThresholds))
}

// numbers are a few large numbers beside each other, each with its name.
func numbers() cog.Builder[dashboard.Panel] {
	return stat.NewPanelBuilder().ReduceOptions(lastValue()).Orientation(common.VizOrientationVertical).
		ColorMode(common.BigValueColorModeValue).GraphMode(common.BigValueGraphModeNone).WideLayout(false).
		JustifyMode(common.BigValueJustifyModeCenter).TextMode(common.BigValueTextModeValueAndName).
		Text(common.NewVizTextDisplayOptionsBuilder().TitleSize(13)).
		ColorScheme(colored(dashboard.FieldColorModeIdThresholds))
}

// light is a number or a word on a ground that has its colour: for what is good or bad.
func light() cog.Builder[dashboard.Panel] {
	return stat.NewPanelBuilder().ReduceOptions(lastValue()).Orientation(common.VizOrientationAuto).
		ColorMode(common.BigValueColorModeBackgroundSolid).GraphMode(common.BigValueGraphModeNone).
		JustifyMode(common.BigValueJustifyModeCenter).TextMode(common.BigValueTextModeValue).
		ColorScheme(colored(dashboard.FieldColorModeIdThresholds))
}

// stacked are lights above each other, and named the same with the names of the series in place of their values.
func stacked() cog.Builder[dashboard.Panel] { return pile(common.BigValueTextModeValue) }
func named() cog.Builder[dashboard.Panel]   { return pile(common.BigValueTextModeName) }

func pile(text common.BigValueTextMode) cog.Builder[dashboard.Panel] {
	return stat.NewPanelBuilder().ReduceOptions(lastValue()).Orientation(common.VizOrientationHorizontal).
		ColorMode(common.BigValueColorModeBackgroundSolid).GraphMode(common.BigValueGraphModeNone).
		JustifyMode(common.BigValueJustifyModeCenter).TextMode(text).
		ColorScheme(colored(dashboard.FieldColorModeIdThresholds))
}

func dial() cog.Builder[dashboard.Panel] {
	return gauge.NewPanelBuilder().ReduceOptions(lastValue()).Orientation(common.VizOrientationAuto).ShowThresholdMarkers(true).
		ColorScheme(colored(dashboard.FieldColorModeIdThresholds))
}

// bars are one bar for each series, lying, the longest first where the query sorts.
func bars() cog.Builder[dashboard.Panel] {
	return bargauge.NewPanelBuilder().ReduceOptions(lastValue()).
		Orientation(common.VizOrientationHorizontal).DisplayMode(common.BarGaugeDisplayModeBasic).
		ShowUnfilled(true).ValueMode(common.BarGaugeValueModeText).NamePlacement(common.BarGaugeNamePlacementLeft).
		Text(common.NewVizTextDisplayOptionsBuilder().TitleSize(13).ValueSize(15)).MinVizHeight(14).MaxVizHeight(32).Sizing(common.BarGaugeSizingAuto).
		ColorScheme(colored(dashboard.FieldColorModeIdThresholds))
}

func graph() *timeseries.PanelBuilder {
	legend := common.NewVizLegendOptionsBuilder().Placement(common.LegendPlacementBottom).ShowLegend(true).
		DisplayMode(common.LegendDisplayModeList).Calcs([]string{})
	return timeseries.NewPanelBuilder().Legend(legend).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending)).
		ColorScheme(colored(dashboard.FieldColorModeIdPaletteClassic)).
		LineWidth(2).FillOpacity(0).ShowPoints(common.VisibilityModeNever).AxisSoftMin(0)
}

// lines are curves. Where nothing was measured they have a gap.
func lines() cog.Builder[dashboard.Panel] { return graph() }

// area stacks curves whose sum says something.
func area() cog.Builder[dashboard.Panel] {
	return graph().FillOpacity(40).LineWidth(1).
		Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal).Group("A"))
}

// days stacks bars. What is at a midnight is the sum of the day before it.
func days() cog.Builder[dashboard.Panel] {
	return graph().DrawStyle(common.GraphDrawStyleBars).FillOpacity(70).LineWidth(0).BarAlignment(common.BarAlignmentBefore).
		Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal).Group("A"))
}

// limited are lines with the thresholds drawn into the graph.
func limited() cog.Builder[dashboard.Panel] {
	return graph().ThresholdsStyle(common.NewGraphThresholdsStyleConfigBuilder().Mode(common.GraphThresholdsStyleModeDashed))
}

// states are coloured stretches of time, a line for each series, with the words and colours of mappings.
func states() cog.Builder[dashboard.Panel] {
	return statetimeline.NewPanelBuilder().PerPage(0).MergeValues(true).ShowValue(common.VisibilityModeAuto).RowHeight(0.85).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(false).DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).Calcs([]string{})).
		ColorScheme(colored(dashboard.FieldColorModeIdPaletteClassic)).FillOpacity(75).LineWidth(0)
}

func grid() cog.Builder[dashboard.Panel] {
	none := common.NewTableFooterOptionsBuilder().Show(false).Reducer([]string{})
	return table.NewPanelBuilder().ShowHeader(true).MinWidth(50).Footer(none).CellHeight(common.TableCellHeightSm).
		ColorScheme(colored(dashboard.FieldColorModeIdThresholds))
}

// note is text in Markdown.
func note(content string) look {
	return func() cog.Builder[dashboard.Panel] {
		return text.NewPanelBuilder().Mode(text.TextModeMarkdown).Content(content)
	}
}
