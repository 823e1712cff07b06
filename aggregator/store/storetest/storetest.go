// Package storetest is the conformance suite of the Store contract. Run holds every promise that package store makes, each
// as a subtest that is named after it, with 1 and with 16 partitions; Bench measures what the daemon asks of a store.
//
//	func TestConformance(t *testing.T) {
//		storetest.Run(t, func(t *testing.T, partitions int) store.Store { … })
//	}
//
// Memory is the contract in its plainest form: the model that Run compares a store with, and a fake for the tests of other
// packages.
//
// The days and times of the suite lie near the present, since a store may let keys expire by its own clock.
package storetest

import (
	"fmt"
	"testing"

	"usaged/aggregator/store"
)

// Option adapts Run to a store.
type Option func(*suite)

// Reopen adds the tests of what survives a restart. reopen closes s and opens what it left behind.
func Reopen(reopen func(t *testing.T, s store.Store) store.Store) Option {
	return func(s *suite) { s.reopen = reopen }
}

// SelfExpiring says that the store lets days and claims expire by its own clock and that Expire does nothing.
func SelfExpiring() Option {
	return func(s *suite) { s.selfExpiring = true }
}

// Parallel says that stores which open returned don't disturb each other, so that the tests may run at the same time.
func Parallel() Option {
	return func(s *suite) { s.parallel = true }
}

type suite struct {
	open         func(t *testing.T, partitions int) store.Store
	reopen       func(t *testing.T, s store.Store) store.Store
	selfExpiring bool
	parallel     bool
}

// Run tests the stores that open returns. Each must be empty, have the given number of partitions and keep days for at
// least 60 days; Run closes it. open ends the test where it cannot make one.
func Run(t *testing.T, open func(t *testing.T, partitions int) store.Store, opts ...Option) {
	s := &suite{open: open}
	for _, opt := range opts {
		opt(s)
	}
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			for _, g := range s.groups() {
				t.Run(g.name, func(t *testing.T) { s.runGroup(t, g, partitions) })
			}
			t.Run("Model", func(t *testing.T) {
				s.mayRunInParallel(t)
				s.testModel(t, partitions)
			})
		})
	}
}

// group is a part of the contract.
type group struct {
	name     string
	promises []promise
}

// promise is a sentence that begins with "it", and the test that holds it.
type promise struct {
	it   string
	test func(f *fixture)
}

func (s *suite) groups() []group {
	groups := []group{
		{"Offset", offsetPromises},
		{"Fencing", fencingPromises},
		{"Claims", claimPromises},
		{"Totals", totalsPromises},
		{"Producers", producersPromises},
		{"Versions", versionPromises},
		{"Types", typesPromises},
		{"Sum", sumPromises},
		{"Keys", keyPromises},
		{"Limits", limitPromises},
		{"Expire", expirePromises},
		{"Concurrency", concurrencyPromises},
		{"Context", contextPromises},
	}
	if !s.selfExpiring {
		groups = append(groups, group{"Removal", removalPromises})
	}
	if s.reopen != nil {
		groups = append(groups, group{"Reopen", reopenPromises})
	}
	return groups
}

func (s *suite) runGroup(t *testing.T, g group, partitions int) {
	for _, p := range g.promises {
		t.Run("it "+p.it, func(t *testing.T) {
			s.mayRunInParallel(t)
			p.test(s.newFixture(t, partitions))
		})
	}
}

func (s *suite) mayRunInParallel(t *testing.T) {
	if s.parallel {
		t.Parallel()
	}
}
