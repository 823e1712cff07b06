package main

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"

	"usaged/client"
)

// uploader is the sink that sends batches to the daemon over several connections. A batch that is refused for its
// events loses only those that the refusal names.
type uploader struct {
	api      *client.Client
	rejects  *rejectFile
	queue    chan []item
	workers  sync.WaitGroup
	ctx      context.Context
	cancel   context.CancelCauseFunc
	accepted atomic.Int64
}

func newUploader(ctx context.Context, api *client.Client, parallel int, rejects *rejectFile) *uploader {
	u := &uploader{api: api, rejects: rejects, queue: make(chan []item)}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	for range parallel {
		u.workers.Go(u.work)
	}
	return u
}

// work sends until the queue is closed. After a failure the batches that remain are dropped unsent.
func (u *uploader) work() {
	for batch := range u.queue {
		if u.ctx.Err() != nil {
			continue
		}
		if err := u.upload(batch); err != nil {
			u.cancel(err)
		}
	}
}

// send hands a batch to a connection that is free.
func (u *uploader) send(_ context.Context, batch []item) error {
	select {
	case u.queue <- batch:
		return nil
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	}
}

// finish waits for the answers to all batches.
func (u *uploader) finish() (accepted int, err error) {
	close(u.queue)
	u.workers.Wait()
	err = context.Cause(u.ctx)
	u.cancel(nil)
	u.api.Close()
	return int(u.accepted.Load()), err
}

// upload sends a batch, again without the events that were refused, until all of it is accepted or refused.
func (u *uploader) upload(batch []item) error {
	for len(batch) > 0 {
		n, err := u.api.Post(u.ctx, join(batch))
		if err == nil {
			u.accepted.Add(int64(n))
			return nil
		}
		problem, ok := errors.AsType[*client.Problem](err)
		if !ok {
			return err
		}
		faults := byElement(problem, len(batch))
		if len(faults) == 0 && problem.Status == http.StatusRequestEntityTooLarge {
			return u.divide(batch, problem)
		}
		if len(faults) == 0 {
			return err
		}
		rest := make([]item, 0, len(batch))
		for i, it := range batch {
			if list := faults[i]; list != nil {
				err = u.rejects.add(rejectedByDaemon(it, list))
			} else {
				rest, err = append(rest, it), nil
			}
			if err != nil {
				return err
			}
		}
		batch = rest
	}
	return nil
}

// divide sends what is too large in halves. The limit may be the daemon's or that of a proxy before it.
func (u *uploader) divide(batch []item, problem *client.Problem) error {
	if len(batch) > 1 {
		half := len(batch) / 2
		if err := u.upload(batch[:half]); err != nil {
			return err
		}
		return u.upload(batch[half:])
	}
	return u.rejects.add(rejectLine{
		origin:    batch[0].origin,
		rejection: rejection{code: codeTooLarge, reason: problem.Error()},
		event:     batch[0].line,
	})
}

func join(batch []item) []byte {
	size := 0
	for _, it := range batch {
		size += len(it.line)
	}
	body := make([]byte, 0, size)
	for _, it := range batch {
		body = append(body, it.line...)
	}
	return body
}

// byElement sorts the faults of a refusal by the event that they name.
func byElement(problem *client.Problem, n int) map[int][]client.Fault {
	faults := map[int][]client.Fault{}
	for _, fault := range problem.Errors {
		index, rest, ok := fault.Element()
		if !ok || index >= n {
			continue
		}
		fault.Pointer = rest
		faults[index] = append(faults[index], fault)
	}
	return faults
}
