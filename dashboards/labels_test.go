package dashboards_test

import (
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
)

// names are labels that series may have.
type names map[string]bool

func namesOf(list ...string) names {
	n := names{}
	for _, name := range list {
		n[name] = true
	}
	return n
}

func (n names) and(list ...string) names {
	all := maps.Clone(n)
	for _, name := range list {
		all[name] = true
	}
	return all
}

func (n names) without(list ...string) names {
	rest := maps.Clone(n)
	for _, name := range list {
		delete(rest, name)
	}
	return rest
}

func (n names) only(list []string) names {
	return maps.Collect(func(yield func(string, bool) bool) {
		for _, name := range list {
			if n[name] && !yield(name, true) {
				return
			}
		}
	})
}

// schema says which metrics there can be, and which labels each may have.
type schema map[string]names

// check returns the labels of what an expression gives, and what it names that cannot be.
func (s schema) check(expr string) (labels names, faults []error) {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return nil, []error{err}
	}
	c := &checker{schema: s}
	return c.labels(parsed), c.faults
}

type checker struct {
	schema schema
	faults []error
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

// known expects labels that are asked for to be among those that there can be.
func (c *checker) known(what parser.Expr, asked []string, labels names) {
	for _, name := range asked {
		if !labels[name] {
			c.fault("%s has no label %s, but %v", what, name, slices.Sorted(maps.Keys(labels)))
		}
	}
}

func (c *checker) labels(node parser.Expr) names {
	switch e := node.(type) {
	case *parser.VectorSelector:
		return c.selector(e)
	case *parser.MatrixSelector:
		return c.labels(e.VectorSelector)
	case *parser.SubqueryExpr:
		return c.labels(e.Expr)
	case *parser.ParenExpr:
		return c.labels(e.Expr)
	case *parser.UnaryExpr:
		return c.labels(e.Expr)
	case *parser.AggregateExpr:
		return c.aggregate(e)
	case *parser.BinaryExpr:
		return c.binary(e)
	case *parser.Call:
		return c.call(e)
	}
	return names{} // numbers and strings
}

func (c *checker) selector(s *parser.VectorSelector) names {
	labels, found := c.schema[s.Name]
	if !found {
		c.fault("nobody exports or records %s", s)
		return names{}
	}
	for _, m := range s.LabelMatchers {
		if m.Name != model.MetricNameLabel {
			c.known(s, []string{m.Name}, labels)
		}
	}
	return labels
}

func (c *checker) aggregate(e *parser.AggregateExpr) names {
	in := c.labels(e.Expr)
	if e.Op == parser.TOPK || e.Op == parser.BOTTOMK {
		return in
	}
	if e.Without {
		return in.without(e.Grouping...)
	}
	c.known(e.Expr, e.Grouping, in)
	out := in.only(e.Grouping)
	if e.Op == parser.COUNT_VALUES {
		out = out.and(e.Param.(*parser.StringLiteral).Val)
	}
	return out
}

func (c *checker) binary(e *parser.BinaryExpr) names {
	left, right := c.labels(e.LHS), c.labels(e.RHS)
	if e.VectorMatching == nil { // one of the two is a number
		if e.LHS.Type() == parser.ValueTypeVector {
			return left
		}
		return right
	}
	m := e.VectorMatching
	c.known(e, m.MatchingLabels, left.and(slices.Collect(maps.Keys(right))...))
	switch {
	case e.Op == parser.LOR:
		return left.and(slices.Collect(maps.Keys(right))...)
	case e.Op == parser.LAND || e.Op == parser.LUNLESS:
		return left
	case m.Card == parser.CardManyToOne:
		return left.and(m.Include...)
	case m.Card == parser.CardOneToMany:
		return right.and(m.Include...)
	case m.On:
		return left.only(m.MatchingLabels)
	}
	return left.without(m.MatchingLabels...)
}

func (c *checker) call(e *parser.Call) names {
	labels := names{}
	for _, arg := range e.Args {
		if t := arg.Type(); t == parser.ValueTypeVector || t == parser.ValueTypeMatrix {
			labels = c.labels(arg)
		}
	}
	switch e.Func.Name {
	case "scalar", "vector":
		return names{}
	case "histogram_quantile":
		return labels.without("le")
	case "label_replace":
		return labels.and(e.Args[1].(*parser.StringLiteral).Val)
	case "absent":
		return names{}
	}
	return labels
}
