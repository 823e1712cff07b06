package embedded

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/grafana/regexp/syntax"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql/parser"
)

// Limits of what may be asked over HTTP. Rules, and what the daemon asks itself, have none of these: an operator writes them.
const (
	// maxFormBytes bounds the body of a request, and maxExpressions the expressions and selectors in it.
	maxFormBytes   = 256 << 10
	maxExpressions = 100
	// maxTokens bounds the words of an expression: parsing takes time by their square. The longest of the shipped dashboards has 400.
	maxTokens = 4000
	// maxNesting bounds the brackets that are open at a time. Each takes stack.
	maxNesting = 100
	// maxPatternSize bounds a regular expression, in steps of the program that it becomes. Repetitions multiply: 20 letters can
	// become 100 MB.
	maxPatternSize = 100_000
	// maxLabelBytes bounds the bytes that label_replace and label_join may add to a series, and sourceLabelBytes is what a label that is
	// stored is taken to have. Nested, they multiply: 700 letters can become 3 GB.
	maxLabelBytes    = 16 << 10
	sourceLabelBytes = 128
	// queryWait is how long a request waits for its turn, and maxWaiting how many do.
	queryWait  = 15 * time.Second
	maxWaiting = 64
)

// limiter lets few requests to the HTTP API run at a time, and none with an expression that would cost too much to be parsed. A core is
// left to the rest of the daemon where there are two.
type limiter struct {
	next     http.Handler
	turns    chan struct{}
	waiting  chan struct{}
	rejected *prometheus.CounterVec
}

// Reasons for which requests are rejected.
const (
	rejectedBusy  = "busy"
	rejectedLimit = "limit"
)

func newLimiter(next http.Handler, reg prometheus.Registerer) (*limiter, error) {
	l := &limiter{
		next: next, turns: make(chan struct{}, min(max(runtime.GOMAXPROCS(0)-1, 1), 4)), waiting: make(chan struct{}, maxWaiting),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usaged_promql_rejected_total",
			Help: "Requests to the API of Prometheus that were not evaluated: too many at a time (busy), or an expression beyond a limit (limit).",
		}, []string{"reason"}),
	}
	for _, reason := range []string{rejectedBusy, rejectedLimit} {
		l.rejected.WithLabelValues(reason)
	}
	if err := reg.Register(l.rejected); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return l, nil
}

// ServeHTTP passes on what is within the limits.
func (l *limiter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/write") || strings.HasSuffix(r.URL.Path, "/notifications/live") {
		l.next.ServeHTTP(w, r) // samples, and a stream that costs nothing
		return
	}
	if !strings.HasSuffix(r.URL.Path, "/read") { // which has a body of its own
		r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
		if err := r.ParseForm(); err != nil {
			l.refuse(w, fmt.Errorf("the request cannot be read: %w: it may have %d bytes", err, maxFormBytes))
			return
		}
		if err := checkForm(r.Form); err != nil {
			l.refuse(w, err)
			return
		}
	}
	end, err := l.begin(r.Context())
	if err != nil {
		l.rejected.WithLabelValues(rejectedBusy).Inc()
		w.Header().Set("Retry-After", "5")
		respondError(w, http.StatusServiceUnavailable, "unavailable", err.Error())
		return
	}
	defer end()
	defer memoryFaults()()
	l.next.ServeHTTP(w, r)
}

func (l *limiter) refuse(w http.ResponseWriter, err error) {
	l.rejected.WithLabelValues(rejectedLimit).Inc()
	respondError(w, http.StatusBadRequest, "bad_data", err.Error())
}

// begin waits for the turn of a request.
func (l *limiter) begin(ctx context.Context) (end func(), err error) {
	select {
	case l.waiting <- struct{}{}:
	default:
		return nil, errors.New("too many queries wait already: ask again in a moment")
	}
	defer func() { <-l.waiting }()
	timer := time.NewTimer(queryWait)
	defer timer.Stop()
	select {
	case l.turns <- struct{}{}:
		return func() { <-l.turns }, nil
	case <-timer.C:
		return nil, errors.New("other queries took too long: ask again in a moment, or ask for less")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// checkForm says what is wrong with the expressions and selectors of a request.
func checkForm(form map[string][]string) error {
	n := 0
	for _, name := range []string{"query", "match[]", "match_target"} {
		for _, expr := range form[name] {
			if n++; n > maxExpressions {
				return fmt.Errorf("there are more than %d expressions: ask in several requests", maxExpressions)
			}
			if err := checkExpression(expr); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// checkExpression says whether an expression may be parsed, and then whether it may be evaluated. That it is no expression at all is left
// to Prometheus to say.
func checkExpression(text string) error {
	if err := checkTokens(text); err != nil {
		return err
	}
	if !strings.Contains(text, "label_") {
		return nil
	}
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		return nil //nolint:nilerr // Prometheus says it in its own words
	}
	if _, made := labelBytes(expr); made > maxLabelBytes {
		return fmt.Errorf("label_replace and label_join could add more than %d bytes of labels to a series: nest fewer of them, or repeat less in them", maxLabelBytes)
	}
	return nil
}

// checkTokens reads the words of an expression, which takes time by their number alone.
func checkTokens(text string) error {
	lexer, item, depth := parser.Lex(text), parser.Item{}, 0
	for n := 1; ; n++ {
		if n > maxTokens {
			return fmt.Errorf("it has more than %d words: ask in several queries, or use a recording rule", maxTokens)
		}
		lexer.NextItem(&item)
		switch item.Typ {
		case parser.EOF, parser.ERROR:
			return nil
		case parser.LEFT_PAREN, parser.LEFT_BRACE, parser.LEFT_BRACKET:
			if depth++; depth > maxNesting {
				return fmt.Errorf("more than %d brackets are open at a time: write it with fewer", maxNesting)
			}
		case parser.RIGHT_PAREN, parser.RIGHT_BRACE, parser.RIGHT_BRACKET:
			depth--
		case parser.STRING:
			if patternSize(item.Val) > maxPatternSize {
				return errors.New("a regular expression in it is too large: repeat less in it")
			}
		}
	}
}

// patternSize returns about how large a program a string becomes, should it be used as a regular expression.
func patternSize(quoted string) int {
	text, err := strconv.Unquote(quoted)
	if err != nil {
		text = strings.Trim(quoted, "'") // in single quotes, which repeat as much
	}
	if !strings.ContainsAny(text, "{*+?[") {
		return len(text)
	}
	parsed, err := syntax.Parse(text, syntax.Perl|syntax.DotNL)
	if err != nil {
		return 0
	}
	return programSize(parsed)
}

func programSize(re *syntax.Regexp) int {
	size := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		size += programSize(sub)
	}
	if re.Op == syntax.OpRepeat {
		size *= max(re.Min, re.Max, 1)
	}
	return min(size, 1<<40)
}

// labelBytes returns how long a label of the result of an expression may be at most, and how many bytes of labels the expression
// makes for a series.
func labelBytes(n parser.Node) (longest, made int) {
	longest = sourceLabelBytes
	for child := range parser.ChildrenIter(n) {
		length, more := labelBytes(child)
		longest, made = max(longest, length), min(made+more, 1<<40)
	}
	call, ok := n.(*parser.Call)
	if !ok || len(call.Args) < 3 {
		return longest, made
	}
	text, added := stringOf(call.Args[2]), 0
	switch call.Func.Name {
	case "label_replace": // v, destination, replacement, source, pattern
		added = len(text) + strings.Count(text, "$")*longest
	case "label_join": // v, destination, separator, sources…
		added = (len(call.Args) - 3) * (longest + len(text))
	}
	return min(max(longest, added), 1<<40), min(made+added, 1<<40)
}

// stringOf returns the text of an argument, which may stand in brackets.
func stringOf(expr parser.Expr) string {
	for {
		switch e := expr.(type) {
		case *parser.ParenExpr:
			expr = e.Expr
		case *parser.StringLiteral:
			return e.Val
		default:
			return ""
		}
	}
}
