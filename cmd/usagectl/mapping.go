package main

import (
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/itchyny/gojq"

	"usaged/aggregator/meter"
	"usaged/client"
)

// Where ids come from.
const (
	idsAuto  = "auto"  // the record's own, else one made of what the record says, see contents
	idsField = "field" // the record's own, else none
	idsNone  = "none"
)

// mapping turns records into events.
type mapping struct {
	code *gojq.Code // nil: by the names of fields
	ids  string
	// What an event gets that has none of its own.
	user, eventType, source string

	now    func() time.Time // tells Unix seconds that lie ahead, which are none
	values *valueDecoder    // for a CSV column that holds JSON
	// extra collects the names of fields that became metadata by themselves.
	extra map[string]bool
}

// rejection is why a record or an event was left out.
type rejection struct {
	pointer string // into the event
	code    string
	reason  string
}

func (r *rejection) Error() string { return r.reason }

// Codes of rejections that are made here; others are the daemon's.
const (
	codeUnreadable = "unreadable"
	codeJQ         = "jq_error"
	codeMapping    = "not_an_event"
	codeTooLarge   = "too_large"
)

func reject(pointer, format string, args ...any) error {
	return &rejection{pointer: pointer, code: codeMapping, reason: fmt.Sprintf(format, args...)}
}

// jqVariables are what an expression may use besides the record.
var jqVariables = []string{"$file", "$n", "$line", "$digest"}

// compileJQ compiles an expression. Its errors show the place.
func compileJQ(expression string) (*gojq.Code, error) {
	query, err := gojq.Parse(expression)
	if err != nil {
		return nil, usageError{errors.New(describeJQ(expression, err))}
	}
	code, err := gojq.Compile(query, gojq.WithVariables(jqVariables))
	if err != nil {
		return nil, usagef("--jq: %w; the variables are %s", err, strings.Join(jqVariables, ", "))
	}
	return code, nil
}

// describeJQ shows where an expression cannot be parsed.
func describeJQ(expression string, err error) string {
	offset := len(expression)
	if parse, ok := errors.AsType[*gojq.ParseError](err); ok {
		offset = min(max(parse.Offset-len(parse.Token), 0), len(expression))
	}
	before := expression[:offset]
	line := strings.Count(before, "\n") + 1
	begin := strings.LastIndexByte(before, '\n') + 1
	column := len([]rune(before[begin:])) + 1
	text, _, _ := strings.Cut(expression[begin:], "\n")
	return fmt.Sprintf("--jq, line %d, column %d: %v\n    %s\n    %s^", line, column, err, text, strings.Repeat(" ", column-1))
}

// events maps one record. No event and no error means that the expression leaves the record out.
func (m *mapping) events(ctx context.Context, src *source, rec record) ([]client.Event, error) {
	if rec.err != nil {
		return nil, &rejection{code: codeUnreadable, reason: rec.err.Error()}
	}
	var says content
	if m.ids == idsAuto {
		says = src.seen.of(rec.content)
	}
	if m.code == nil {
		fields, err := m.byName(rec.value)
		if err != nil {
			return nil, err
		}
		event, err := m.event(fields, says, 0)
		return []client.Event{event}, err
	}
	var events []client.Event
	it := m.code.RunWithContext(ctx, rec.value, src.label(), rec.n, rec.line, src.digest)
	for {
		value, more := it.Next()
		if !more {
			return events, nil
		}
		if err, failed := value.(error); failed {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			var halt *gojq.HaltError
			if errors.As(err, &halt) && halt.Value() == nil {
				return events, nil
			}
			return nil, &rejection{code: codeJQ, reason: "--jq: " + err.Error()}
		}
		if value == nil {
			continue
		}
		fields, ok := value.(map[string]any)
		if !ok {
			return nil, reject("", "--jq gives %s where an event object or null is due", kindOf(value))
		}
		event, err := m.event(fields, says, len(events))
		if err != nil {
			return nil, err
		}
		events = append(events, event)
	}
}

var eventFields = []string{"id", "user_id", "event_type", "metadata", "source", "created_at"}

// byName takes the fields that are named like those of an event and makes metadata of all others.
func (m *mapping) byName(value any) (map[string]any, error) {
	object, ok := value.(map[string]any)
	if !ok {
		return nil, reject("", "the record is %s where an object is due", kindOf(value))
	}
	fields, metadata := map[string]any{}, map[string]any{}
	if own, ok := object["metadata"]; ok {
		var err error
		if metadata, err = m.ownMetadata(own); err != nil {
			return nil, err
		}
	}
	for name, value := range object {
		switch {
		case name == "metadata":
		case slices.Contains(eventFields, name):
			fields[name] = value
		case value == nil || value == "":
		default:
			key := strings.TrimPrefix(name, "metadata.")
			if _, twice := metadata[key]; twice {
				return nil, reject("/metadata/"+escapePointer(key), "both metadata and field %s give a value for %q", name, key)
			}
			metadata[key] = value
			m.extra[key] = true
		}
	}
	fields["metadata"] = metadata
	return fields, nil
}

// ownMetadata reads the metadata of a record, which in CSV is the text of a JSON object.
func (m *mapping) ownMetadata(value any) (map[string]any, error) {
	if text, ok := value.(string); ok && text != "" {
		parsed, err := m.values.decode([]byte(text))
		if err != nil {
			return nil, reject("/metadata", "metadata is a string that is not a JSON object: %v", err)
		}
		value = parsed
	}
	switch object := value.(type) {
	case map[string]any:
		copied := make(map[string]any, len(object))
		for key, value := range object {
			copied[key] = value
		}
		return copied, nil
	case nil:
		return map[string]any{}, nil
	case string:
		return map[string]any{}, nil
	}
	return nil, reject("/metadata", "metadata is %s where an object is due", kindOf(value))
}

// event builds an event of fields that all are an event's. k numbers the events of one record, from 0.
func (m *mapping) event(fields map[string]any, says content, k int) (client.Event, error) {
	for name := range fields {
		if !slices.Contains(eventFields, name) {
			return client.Event{}, reject("/"+escapePointer(name), "unknown field %q: an event has %s", name, strings.Join(eventFields, ", "))
		}
	}
	var e client.Event
	var err error
	for _, f := range []struct {
		name, fallback string
		to             *string
	}{{"id", "", &e.ID}, {"user_id", m.user, &e.UserID}, {"event_type", m.eventType, &e.Type}, {"source", m.source, &e.Source}} {
		if *f.to, err = text("/"+f.name, fields[f.name]); err != nil {
			return e, err
		}
		if *f.to == "" {
			*f.to = f.fallback
		}
	}
	if e.Type == "" {
		return e, reject("/event_type", "the event has no event_type: name one with --type, or map it with --jq")
	}
	if e.CreatedAt, err = parseTime(fields["created_at"], m.now()); err != nil {
		return e, err
	}
	if e.Metadata, err = metadataOf(fields["metadata"]); err != nil {
		return e, err
	}
	e.ID = m.id(e.ID, says, !e.CreatedAt.IsZero(), k)
	return e, nil
}

// id is the name under which the daemon recognises an event that is sent again.
func (m *mapping) id(own string, says content, dated bool, k int) string {
	switch {
	case m.ids == idsNone:
		return ""
	case own != "" || m.ids == idsField:
		return own
	case k == 0:
		return fmt.Sprintf("%s-%d", says.id(dated), says.again+1)
	}
	return fmt.Sprintf("%s-%d.%d", says.id(dated), says.again+1, k+1)
}

// metadataOf makes strings of the values. null is left out.
func metadataOf(value any) (map[string]string, error) {
	if value == nil {
		return nil, nil
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, reject("/metadata", "metadata is %s where an object is due", kindOf(value))
	}
	metadata := make(map[string]string, len(object))
	for key, value := range object {
		if value == nil {
			continue
		}
		pointer := "/metadata/" + escapePointer(key)
		if flag, ok := value.(bool); ok {
			metadata[key] = strconv.FormatBool(flag)
			continue
		}
		s, err := text(pointer, value)
		if err != nil {
			return nil, err
		}
		metadata[key] = s
	}
	return metadata, nil
}

// text makes a string of a string or a number. null is the empty string.
func text(pointer string, value any) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case stdjson.Number:
		return wholeText(v.String()), nil
	case int:
		return strconv.Itoa(v), nil
	case float64, *big.Int:
		out, err := gojq.Marshal(v)
		return string(out), err
	}
	return "", reject(pointer, "%s is %s where a string is due: map it with --jq, for example with tojson", pointer[1:], kindOf(value))
}

// wholeText writes a whole number without a fraction and an exponent, so that 7.0 is the same user as 7. A number that is not whole,
// or has more digits than a float holds, keeps its spelling.
func wholeText(number string) string {
	if !strings.ContainsAny(number, ".eE") {
		return number
	}
	digits, negative := strings.CutPrefix(number, "-")
	n, whole := meter.ParseWhole([]byte(digits))
	switch {
	case !whole:
		return number
	case negative && n != 0:
		return "-" + strconv.FormatUint(n, 10)
	}
	return strconv.FormatUint(n, 10)
}

func kindOf(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return "a number"
}

// escapePointer makes a name a part of a JSON pointer (RFC 6901).
func escapePointer(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}
