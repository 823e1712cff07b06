package event

// DecodeByTokens is Decode without the quick way.
func (d *Decoder) DecodeByTokens(body []byte, format Format, origin Origin) (*Batch, error) {
	d.reset(origin)
	if format == NDJSON {
		d.readLines(body, false)
	} else {
		d.readBody(body)
	}
	return d.result()
}
