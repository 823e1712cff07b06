package rollup

// Help has the help texts of the metrics in the set.
func Help() map[string]string {
	return map[string]string{
		"usaged_reader_cache_bytes":          "Memory used by the cache of days that are over.",
		"usaged_reader_cache_requests_total": "Reads of one rollup and day, by whether the cache had it.",
		"usaged_reader_cache_errors_total":   "Times that the file of the cache could not be read or written; reads are slower after a start.",
	}
}
