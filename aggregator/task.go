package aggregator

import "time"

// patience is how long a round waits for the store. A partition that doesn't answer in time, whose server hangs, is waited
// for no longer as long as another does: its task stays under way, and its end is taken note of in a later round.
const patience = time.Second

// outcome is how a task ended.
type outcome struct {
	partition *partition
	err       error
}

// start gives a worker a task. Until it has ended the partition belongs to the worker.
func (p *applier) start(c *partition, t task) {
	c.busy = true
	c.tasks <- t
}

// take takes note of how a task ended.
func (p *applier) take(o outcome) {
	c := o.partition
	c.busy, c.slow = false, c.slow && o.err != nil
	p.settle(c, o.err)
}

// collect takes note of the tasks that have ended, and waits for those that are worth it.
func (p *applier) collect() {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case o := <-p.done:
			p.take(o)
			continue
		default:
		}
		if !p.awaited() {
			return
		}
		select {
		case o := <-p.done:
			p.take(o)
		case <-timer.C:
			for _, c := range p.partitions {
				c.slow = c.slow || c.busy
			}
		}
	}
}

// awaited says that a task is under way for which the round waits: any where all are slow, and otherwise one that isn't.
func (p *applier) awaited() bool {
	busy, slow, inTime := 0, 0, 0
	for _, c := range p.partitions {
		if c.slow {
			slow++
		}
		if c.busy {
			busy++
			if !c.slow {
				inTime++
			}
		}
	}
	return inTime > 0 || busy > 0 && slow == len(p.partitions)
}

// finishTasks waits until no task is under way.
func (p *applier) finishTasks() {
	for _, c := range p.partitions {
		for c.busy {
			p.take(<-p.done)
		}
	}
}

// readAttempts is how often the journal is read in vain before somebody is called. A full table of descriptors or a disk that
// stutters is over by then.
const readAttempts = 5

// noteReading counts attempts to read the journal that failed, and raises an alarm where they go on to fail. The partition goes on
// trying, so that it heals by itself.
func (p *applier) noteReading(c *partition, err error) {
	switch {
	case isReadError(err):
		p.metrics.readErrors.Inc()
		if c.unread++; c.unread < readAttempts || c.stopped {
			return
		}
		c.stopped = true
		p.metrics.stopped.Add(1)
		p.log.Error("the journal cannot be read, so a partition takes no events: look at the disk, its file system and the limit of open files. "+
			"Events are accepted, and none is lost or taken for damaged; applying goes on by itself when the journal can be read",
			"partition", c.index, "attempts", c.unread, "err", err)
	case err == nil:
		if c.stopped {
			p.metrics.stopped.Add(-1)
			p.log.Info("the journal can be read again", "partition", c.index)
		}
		c.unread, c.stopped = 0, false
	}
}
