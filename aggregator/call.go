package aggregator

import "time"

// patience is how long a round waits for the store. A partition that doesn't answer in time, whose server hangs, is waited
// for no longer as long as another does: its call stays under way, and its answer is taken in a later round.
const patience = time.Second

// answer is how a call of the store ended.
type answer struct {
	chain *chain
	then  func() error
}

// call asks the store something for the chain while the applier goes on. ask runs on a goroutine of its own and touches
// nothing that the applier changes. The function that it returns belongs to the applier again: it takes the answer, and may
// make the next call. Until all that is done nothing else is asked for this chain.
func (c *chain) call(ask func() (then func() error)) {
	c.calling = true
	go func() { c.p.answers <- answer{c, ask()} }()
}

// take goes on from an answer.
func (p *applier) take(a answer) {
	c := a.chain
	c.calling = false
	if err := a.then(); !c.calling {
		p.settle(c, err)
		c.late = c.late && err != nil
	}
}

// collect takes the answers, and waits for those that are worth it.
func (p *applier) collect() {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case a := <-p.answers:
			p.take(a)
			continue
		default:
		}
		if !p.awaited() {
			return
		}
		select {
		case a := <-p.answers:
			p.take(a)
		case <-timer.C:
			for _, c := range p.chains {
				c.late = c.late || c.calling
			}
		}
	}
}

// awaited says that a call is under way for which the round waits: any where all are late, and otherwise one that isn't.
func (p *applier) awaited() bool {
	calling, late, inTime := 0, 0, 0
	for _, c := range p.chains {
		if c.late {
			late++
		}
		if c.calling {
			calling++
			if !c.late {
				inTime++
			}
		}
	}
	return inTime > 0 || calling > 0 && late == len(p.chains)
}

// finishCalls waits until no call is under way.
func (p *applier) finishCalls() {
	for _, c := range p.chains {
		for c.calling {
			p.take(<-p.answers)
		}
	}
}
