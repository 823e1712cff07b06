package main

import "github.com/grafana/grafana-foundation-sdk/go/dashboard"

// What is folded away at the end of the page about operations.

func readingLines() []line {
	return []line{{7, []cell{
		wide(8, &panel{
			title: "Requests a second", unit: "reqps", look: area, noValue: "nobody asks",
			about:   "All but the POSTs of events, by handler.",
			queries: []query{rate(`sum by (handler) (rate(usaged_http_requests_total{@,handler!="events"}[$__rate_interval])) > 0`, "{{handler}}")},
		}),
		wide(8, &panel{
			title: "Time to answer, 99 of 100", unit: "s", look: lines, noValue: "nobody asks",
			about: "All but the POSTs of events and streams, by handler.",
			queries: []query{curve(chosen(`histogram_quantile(0.99, sum by (le, handler) (rate(usaged_http_request_duration_seconds_bucket`+
				`{@,handler!~"tail|other"}[$__rate_interval]))) > 0`), "{{handler}}")},
		}),
		wide(8, &panel{
			title: "Streams of raw events", unit: "short", look: lines,
			about: "How many follow, of how many that are let in, and streams that retention overtook: those missed events.",
			queries: []query{
				rate(`sum(usaged_tail_streams@)`, "streams"), rate(`sum(usaged_tail_streams_limit@)`, "limit"),
				rate(`sum(increase(usaged_tail_overtaken_total@[$__rate_interval]))`, "overtaken"),
			},
		}),
	}}}
}

func prometheusLines(books runbooks) []line {
	return []line{
		{7, []cell{
			wide(8, &panel{
				title: "Series and blocks", unit: "short", look: lines,
				about: "Series of the last hours in the embedded database, and blocks on disk. A label without bounds shows here.",
				queries: []query{
					rate(`sum by (instance) (prometheus_tsdb_head_series@)`, "series at {{instance}}"),
					rate(`sum by (instance) (prometheus_tsdb_blocks_loaded@)`, "blocks at {{instance}}"),
				},
			}),
			wide(8, &panel{
				title: "Time to evaluate a group of rules", unit: "s", look: lines,
				about:   "The last evaluation. Near the group's interval of a minute, evaluations are missed.",
				queries: []query{rate(`label_replace(max by (rule_group) (prometheus_rule_group_last_duration_seconds@), "rule_group", "$1", "rule_group", ".*;(.*)")`, "{{rule_group}}")},
			}),
			wide(8, &panel{
				title: "Embedded Prometheus: failures", unit: "short", look: bars, steps: anyIsBad, min: ptr(0.0), decimals: ptr(0.0),
				about: "In the time shown: rules that failed, evaluations that were missed, compactions and writes to its log that failed, and alerts that were " +
					"not delivered. 0 too where the embedded Prometheus is off.",
				queries: []query{
					now(orZero(`sum(increase(prometheus_rule_evaluation_failures_total@[$__range]))`), "rules failed"),
					now(orZero(`sum(increase(prometheus_rule_group_iterations_missed_total@[$__range]))`), "evaluations missed"),
					now(orZero(`sum(increase(prometheus_tsdb_compactions_failed_total@[$__range]))`), "compactions failed"),
					now(orZero(`sum(increase(prometheus_tsdb_wal_writes_failed_total@[$__range]))`), "writes failed"),
					now(orZero(`sum(increase(prometheus_notifications_errors_total@[$__range]))`), "alerts not delivered"),
				},
			}),
		}},
		{7, []cell{
			wide(12, &panel{
				title: "Remote write: behind by", unit: "s", look: limited, steps: lagSteps,
				about: "How old the newest sample is that a receiver has. 0 where nothing is sent anywhere.",
				queries: []query{rate(`max by (endpoint) (time() - usaged_remote_write_sent_until_timestamp_seconds@)
or on () label_replace(vector(0), "endpoint", "nowhere", "", "")`, "{{endpoint}}")},
				links: []linkTo{books.link("UsagedRemoteWriteBehind")},
			}),
			wide(12, &panel{
				title: "Remote write: samples a second", unit: "short", look: area,
				about: "By what became of them. Refused are gone for that receiver. 0 where nothing is sent anywhere.",
				queries: []query{rate(`sum by (endpoint, outcome) (rate(usaged_remote_write_samples_total@[$__rate_interval]))
or on () label_replace(vector(0), "endpoint", "nowhere", "", "")`, "{{endpoint}} {{outcome}}")},
				special: []override{upTo(1)},
			}),
		}},
	}
}

func processLines() []line {
	return []line{{7, []cell{
		wide(7, &panel{
			title: "Memory", unit: "bytes", look: lines,
			about: "Resident is what the system counts, heap what Go uses of it.",
			queries: []query{
				rate(`sum by (instance) (process_resident_memory_bytes@)`, "resident, {{instance}}"),
				rate(`sum by (instance) (go_memstats_heap_inuse_bytes@)`, "heap, {{instance}}"),
			},
		}),
		wide(7, &panel{
			title: "Processors", unit: "short", look: lines,
			about:   "How many processors it keeps busy.",
			queries: []query{rate(`sum by (instance) (rate(process_cpu_seconds_total@[$__rate_interval]))`, "{{instance}}")},
		}),
		wide(4, &panel{
			title: "Open files, of the limit", unit: "percentunit", look: limited, steps: []step{{0, good}, {0.8, bad}, {0.95, worst}}, min: ptr(0.0), max: ptr(1.0),
			about:   "Connections and segments are files. At the limit neither can be opened.",
			queries: []query{rate(`max by (instance) (process_open_fds@ / process_max_fds@)`, "{{instance}}")},
		}),
		wide(6, &panel{
			title: "Versions", unit: "short", look: grid,
			about:   "Which version runs where.",
			queries: []query{columnsOf(chosen(`count by (instance, version, goversion) (usaged_build_info@)`))},
			changes: []dashboard.DataTransformerConfig{titled([]string{"instance", "version", "goversion", "Value"}, map[string]string{
				"instance": "Instance", "version": "Version", "goversion": "Go", "Value": "Running",
			})},
		}),
	}}}
}
