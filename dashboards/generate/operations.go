package main

import (
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// chosen puts the replicas that were chosen into the selectors of an expression, where it has @.
func chosen(expr string) string {
	expr = strings.ReplaceAll(expr, "{@,", `{job=~"$job",instance=~"$instance",`)
	return strings.ReplaceAll(expr, "@", `{job=~"$job",instance=~"$instance"}`)
}

// orZero says 0 where a counter has no series, which is where nothing of the kind has happened.
func orZero(expr string) string { return chosen(expr) + ` or vector(0)` }

func rate(expr, name string) query { return curve(chosen(expr), name) }

// percentile is of the classic buckets, which every Prometheus has.
func percentile(q, metric string) string {
	return chosen(`histogram_quantile(` + q + `, sum by (le) (rate(` + metric + `_bucket@[$__rate_interval])))`)
}

var (
	anyIsBad  = []step{{0, good}, {1e-9, worst}}
	lagSteps  = []step{{0, good}, {10, watch}, {60, bad}, {900, worst}}
	diskSteps = []step{{0, worst}, {0.05, bad}, {0.1, watch}, {0.2, good}}
)

func operations(books runbooks) *page {
	p := &page{name: "operations", title: "usaged: operations", from: "now-6h", refresh: "30s",
		about: "Whether usaged accepts events, counts them, and has room: for whoever is on call."}
	p.variables = []cog.Builder[dashboard.VariableModel]{
		labelVariable("job", "Job", "usaged_build_info", "The job under which usaged is scraped: usaged where it scrapes itself."),
		labelVariable("instance", "Instance", `usaged_build_info{job=~"$job"}`, "The replicas."),
	}
	p.add(5, wide(4, accepting(books)), wide(4, rejecting(books)), wide(4, lagNow(books)), wide(4, diskNow(books)), wide(8, firing()))
	p.add(8, wide(12, accepted()), wide(12, rejects(books)))
	p.row("Accepting: HTTP and journal")
	p.add(7, wide(8, latency()), wide(8, fsync()), wide(8, batches()))
	p.add(7, wide(8, requests()), wide(8, journalSize()), wide(8, inflight()))
	p.row("Counting: applier and store")
	p.add(7, wide(8, lag(books)), wide(8, applying()), wide(8, storeErrors(books)))
	p.add(7, wide(8, counted()), wide(8, storeSize()), wide(8, faults(books)))
	p.folded("Reading: the API, raw events, PromQL", readingLines()...)
	p.folded("Embedded Prometheus and remote write", prometheusLines(books)...)
	p.folded("Process", processLines()...)
	return p
}

func accepting(books runbooks) *panel {
	return &panel{
		title: "Accepts?", look: light, steps: []step{{0, worst}, {1, good}}, noValue: "no usaged",
		mappings: words([2]string{"NO", worst}, [2]string{"yes", good}),
		about:    "Whether the journal of every replica can be written. If not, POST is answered with 503 and senders repeat.",
		queries:  []query{now(chosen(`min(usaged_journal_available@)`), "")},
		links:    []linkTo{books.link("UsagedJournalUnavailable")},
	}
}

func rejecting(books runbooks) *panel {
	return &panel{
		title: "Refused", unit: "eps", look: light, steps: anyIsBad,
		about:   "Events a second that could not be taken though they were right: journal, memory or a fault of usaged. Senders repeat, not for ever.",
		queries: []query{now(orZero(`sum(rate(usaged_ingest_rejected_events_total@[$__rate_interval]))`), "")},
		links:   []linkTo{books.link("UsagedIngestRejecting")},
	}
}

func lagNow(books runbooks) *panel {
	return &panel{
		title: "Lag", unit: "s", look: light, steps: lagSteps, decimals: ptr(0.0),
		about:   "Age of the oldest event that was accepted and is not counted. Normally under a second. Nothing is lost meanwhile; figures are old.",
		queries: []query{now(chosen(`max(usaged_apply_lag_seconds@)`), "")},
		links:   []linkTo{books.link("UsagedApplyLagging")},
	}
}

func diskNow(books runbooks) *panel {
	return &panel{
		title: "Disk free", unit: "percentunit", look: light, steps: diskSteps, decimals: ptr(0.0),
		about:   "What is free where the fullest data directory is. A full disk refuses events.",
		queries: []query{now(chosen(`min(usaged_data_free_bytes@ / usaged_data_size_bytes@)`), "")},
		links:   []linkTo{books.link("UsagedDiskFilling")},
	}
}

func firing() *panel {
	return &panel{
		title: "Alerts firing", look: grid, unit: "short", noValue: "0",
		about: "Alerts of usaged that fire now, the Watchdog aside, which always does. The runbooks have a section for each.",
		links: []linkTo{{"Runbooks", "/d/usaged-runbooks"}},
		queries: []query{columnsOf(`sort_desc(count by (alertname, severity) (ALERTS{alertstate="firing",alertname=~"Usaged?[A-Z].*"})) or on () ` +
			`label_replace(vector(0), "alertname", "none", "", "")`)},
		changes: []dashboard.DataTransformerConfig{
			titled([]string{"alertname", "severity", "Value"}, map[string]string{"alertname": "Alert", "severity": "Severity", "Value": "Firing"}),
		},
		special: []override{
			{name: "/Firing|Severity/", properties: []dashboard.DynamicConfigValue{property("custom.width", 70)}},
			column("Firing", "short", step{0, good}, step{1, worst}),
		},
	}
}

func accepted() *panel {
	return &panel{
		title: "Events accepted and counted a second", unit: "eps", look: lines,
		about: "Accepted is what got a 202, counted what is in the figures; duplicates are repetitions that were recognised by their id. " +
			"Accepted = counted + duplicates + what waits.",
		queries: []query{
			rate(`sum(rate(usaged_ingest_events_total@[$__rate_interval]))`, "accepted"),
			rate(`sum(rate(usaged_applied_events_total@[$__rate_interval]))`, "counted"),
			rate(`sum(rate(usaged_duplicate_events_total@[$__rate_interval]))`, "duplicates"),
		},
		special: []override{fixed("accepted", plain), fixed("counted", good, dashed()), fixed("duplicates", faint)},
	}
}

func rejects(books runbooks) *panel {
	return &panel{
		title: "Requests with events refused a second, by reason", unit: "reqps", look: area,
		about: "invalid and malformed are the senders' faults, unauthorized and forbidden those of tokens; unavailable, overloaded and internal are ours.",
		queries: []query{rate(`sum by (reason) (rate(usaged_ingest_rejected_total@[$__rate_interval])) > 0
or on () label_replace(vector(0), "reason", "none", "", "")`, "{{reason}}")},
		special: []override{upTo(1)},
		links:   []linkTo{books.link("UsagedIngestRejecting")},
	}
}

func latency() *panel {
	return &panel{
		title: "Time to accept", unit: "s", look: lines,
		about: "From the header of a POST to its 202, body and fsync included. It does not wait for the store.",
		queries: []query{
			curve(percentile("0.5", "usaged_ingest_duration_seconds"), "half of all"),
			curve(percentile("0.99", "usaged_ingest_duration_seconds"), "99 of 100"),
		},
	}
}

func fsync() *panel {
	return &panel{
		title: "Time to sync the journal", unit: "s", look: lines,
		about: "The fsync of one commit, which all requests of the moment share. A slow disk shows here first.",
		queries: []query{
			curve(percentile("0.5", "usaged_journal_fsync_duration_seconds"), "half of all"),
			curve(percentile("0.99", "usaged_journal_fsync_duration_seconds"), "99 of 100"),
		},
	}
}

func batches() *panel {
	return &panel{
		title: "Events a request, and a commit", unit: "short", look: lines,
		about: "On average. Larger requests cost less; a commit holds what came while the one before was synced.",
		queries: []query{
			rate(`sum(rate(usaged_ingest_request_events_sum@[$__rate_interval])) / sum(rate(usaged_ingest_request_events_count@[$__rate_interval]) > 0)`, "a request"),
			rate(`sum(rate(usaged_journal_commit_events_sum@[$__rate_interval])) / sum(rate(usaged_journal_commit_events_count@[$__rate_interval]) > 0)`, "a commit"),
		},
	}
}

func requests() *panel {
	return &panel{
		title: "POST of events a second, by answer", unit: "reqps", look: area,
		about:   "202 is accepted. 4xx is the sender's fault and is not repeated, 503 is ours and is.",
		queries: []query{rate(`sum by (code) (rate(usaged_http_requests_total{@,handler="events"}[$__rate_interval]))`, "{{code}}")},
	}
}

func journalSize() *panel {
	return &panel{
		title: "Journal and disk", unit: "bytes", look: lines,
		about: "What the journal holds, and what is free. Segments go when they are applied, checkpointed and older than the retention.",
		queries: []query{
			rate(`sum by (instance) (usaged_journal_bytes@)`, "journal of {{instance}}"),
			rate(`min by (instance) (usaged_data_free_bytes@)`, "free at {{instance}}"),
		},
	}
}

func inflight() *panel {
	return &panel{
		title: "Bodies in memory, of the limit", unit: "percentunit", look: limited, steps: []step{{0, good}, {0.8, bad}, {1, worst}}, min: ptr(0.0), max: ptr(1.0),
		about:   "Bodies that are being received and accepted. At the limit, requests are answered with 503 overloaded.",
		queries: []query{rate(`max by (instance) (usaged_ingest_inflight_bytes@ / usaged_ingest_inflight_limit_bytes@)`, "{{instance}}")},
	}
}

func lag(books runbooks) *panel {
	return &panel{
		title: "Lag, and events that wait", unit: "s", look: lines,
		about: "Age of the oldest event that is not counted; over a minute nothing is said about activity. And how many wait: where they grow, the store is slow or away.",
		queries: []query{
			rate(`max by (instance) (usaged_apply_lag_seconds@)`, "lag of {{instance}}"),
			rate(`sum(usaged_apply_pending_events@)`, "waiting"),
		},
		special: []override{upTo(10), {name: "waiting", properties: []dashboard.DynamicConfigValue{
			property("unit", "short"), property("custom.axisPlacement", "right"),
		}}},
		links: []linkTo{books.link("UsagedApplyLagging")},
	}
}

func applying() *panel {
	return &panel{
		title: "Time to apply a batch", unit: "s", look: lines,
		about: "One batch to one partition of the store, SQLite or Redis.",
		queries: []query{
			curve(percentile("0.5", "usaged_apply_duration_seconds"), "half of all"),
			curve(percentile("0.99", "usaged_apply_duration_seconds"), "99 of 100"),
		},
	}
}

func storeErrors(books runbooks) *panel {
	return &panel{
		title: "Store: errors a second, replicas without it", unit: "short", look: lines,
		about: "Reads and writes that failed and are repeated; and how many replicas have not reached the store since their start.",
		queries: []query{
			rate(`sum by (instance) (rate(usaged_store_errors_total@[$__rate_interval]))`, "errors at {{instance}}"),
			rate(`count(usaged_store_connected@ == 0) or vector(0)`, "not connected"),
		},
		special: []override{upTo(1)},
		links:   []linkTo{books.link("UsagedStoreUnreachable")},
	}
}

func counted() *panel {
	return &panel{
		title: "Rewinds, and batches a second", unit: "short", look: lines,
		about: "A rewind applies again from the journal what the store had lost, as after a failover of Redis.",
		queries: []query{
			rate(`sum(rate(usaged_rewinds_total@[$__rate_interval]))`, "rewinds"),
			rate(`sum(rate(usaged_apply_duration_seconds_count@[$__rate_interval]))`, "batches"),
		},
	}
}

func storeSize() *panel {
	return &panel{
		title: "Size of rollups and caches", unit: "bytes", look: lines,
		about: "SQLite's file and its log, and the cache of days that are over. With Redis there is no SQLite.",
		queries: []query{
			rate(`sum(usaged_store_sqlite_bytes@) or vector(0)`, "SQLite"),
			rate(`sum(usaged_store_sqlite_wal_bytes@) or vector(0)`, "write-ahead log"),
			rate(`sum(usaged_reader_cache_bytes@)`, "cache of days"),
		},
	}
}

// faults are counters that stand still while all is well.
func faults(books runbooks) *panel {
	increases := func(metric, name string) query { return now(chosen(`sum(increase(`+metric+`@[$__range]))`), name) }
	return &panel{
		title: "What should not happen", unit: "short", look: bars, steps: anyIsBad, min: ptr(0.0), decimals: ptr(0.0),
		about: "In the time shown: values that are no numbers, names beyond a limit and under __other__, events lost to damage, ids not checked, times " +
			"that a file could not be written, panics. Each has its alert and its line in the operator's page.",
		queries: []query{
			increases("usaged_bad_values_total", "bad values"),
			increases("usaged_overflow_total", "day limits"),
			increases("usaged_label_overflow_total", "label limits"),
			increases("usaged_journal_damaged_events_total", "events damaged"),
			increases("usaged_ids_unverified_total", "ids unverified"),
			increases("usaged_checkpoint_errors_total", "checkpoints failed"),
			increases("usaged_high_water_write_errors_total", "marks not saved"),
			increases("usaged_http_panics_total", "panics"),
		},
		links: []linkTo{books.link("UsagedLabelOverflow"), books.link("UsagedIdsUnverified"), books.link("UsagedClockJumped")},
	}
}
