package main

import (
	"fmt"
	"strings"
)

// runbooks are the sections of docs/runbooks.md, one per alert, in its order.
type runbooks []runbook

type runbook struct{ alert, text string }

// readRunbooks takes the page apart. Links in it lead to other pages of the project, which are not in Grafana: their text stays.
func readRunbooks(page string) (books runbooks, err error) {
	for _, section := range strings.Split(page, "\n## ")[1:] {
		alert, text, _ := strings.Cut(section, "\n")
		books = append(books, runbook{strings.TrimSpace(alert), unlinked(strings.TrimSpace(text))})
	}
	if len(books) == 0 {
		return nil, fmt.Errorf("the runbooks have no sections")
	}
	return books, nil
}

// unlinked keeps of [text](target) the text.
func unlinked(s string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "](")
		open := strings.LastIndex(before, "[")
		if !found || open < 0 {
			out.WriteString(s)
			return out.String()
		}
		_, after, _ := strings.Cut(rest, ")")
		out.WriteString(before[:open] + before[open+1:])
		s = after
	}
}

// The page of runbooks has one column of text panels: the number of a panel follows from its place.
func (b runbooks) link(alert string) linkTo {
	for i, book := range b {
		if book.alert == alert {
			return linkTo{"Runbook: " + alert, fmt.Sprintf("/d/usaged-runbooks?viewPanel=panel-%d", i+1)}
		}
	}
	panic("no runbook for " + alert) // a fault of this program: its tests run it
}

// runbookPage is docs/runbooks.md as a dashboard, where every link to a runbook works.
func runbookPage(books runbooks) *page {
	p := &page{name: "runbooks", title: "usaged: runbooks", from: "now-24h", refresh: "", textAlone: true,
		about: "What each alert means, what it does to people, what to look at and what to do: docs/runbooks.md."}
	for i := 0; i < len(books); i += 2 {
		var cells []cell
		for _, b := range books[i:min(i+2, len(books))] {
			cells = append(cells, wide(12, &panel{title: b.alert, about: "The runbook of the alert " + b.alert + ".", look: note(b.text)}))
		}
		p.add(9, cells...)
	}
	return p
}
