// Package remotewrite sends what a local TSDB holds to remote-write receivers, each sample once and in the order of time.
//
// Nothing is queued in memory: the TSDB is the queue. Every receiver has a [sender] with a cursor on disk, the time up to
// which everything has been taken. The sender reads (cursor, now] from the TSDB, sends it, and moves the cursor when the
// receiver has answered. So a receiver may be away for as long as the TSDB keeps samples, and a SIGKILL meanwhile changes
// nothing: the next start goes on at the cursor. What a crash can repeat is the one request whose answer had not been
// noted yet; its samples are the same, with the same times, which receivers take as one.
//
// A sample may come late: with a time that has been sent already, because its scrape took long or the clock went back.
// [Tap], through which all samples go into the TSDB, notes each of them, and the senders send those, and only those,
// afterwards.
//
// What Prometheus does differently: it reads its write-ahead log from "now" after a start, and holds what is pending in
// memory, so that a crash during an outage, or an outage longer than the log, leaves a gap.
//
//	tap := remotewrite.NewTap(db)
//	writer, err := remotewrite.New(remotewrite.Config{Dir: dir, DB: db, Tap: tap, …})
//	err = writer.Apply(externalLabels, endpoints)
//	// … append through tap …
//	err = writer.Close(ctx)
package remotewrite
