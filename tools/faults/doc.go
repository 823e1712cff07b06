// Package faults is a matrix of faults that is run against whole daemons: each row is a kind of fault on one of the two
// stores, each trial one fault at a moment, place or order that a seed decides.
//
// The judge stands outside the daemon. A sender keeps a book of what it sent and what came back: accepted (202), refused (an error
// that says so) or unknown (no answer, or a 500). After the fault, with the cause taken away and the daemon started again, the book
// is compared with the summary, usage_events_total, the raw events and the ledger. A trial ends in one of these outcomes:
//
//	exact     every accepted event is counted once, nothing refused is there, and all views agree
//	refused   the daemon does not start, or does not answer, and its last line names a file and says what to do
//	alarmed   events are missing and the daemon says so: damaged in the ledger, or a line in its log about the fault
//	unclear   the daemon does not start and does not say which file or what to do
//	lost      accepted events are missing without an alarm
//	doubled   events are counted more often than they were accepted
//	silent    the views disagree without an alarm
//	stuck     accepted events stay pending, or the daemon does not answer, although the cause is gone
//
// The first three are right. The others fail the run.
//
//	make faults                                    # 20 trials of each row
//	make faults TIMES=500 FAULTS=kills,flips SEED=7 # as many as you like, of some rows
//
// A failure prints the seed of its trial; the same SEED and FAULTS with TIMES=1 repeat it.
package faults
