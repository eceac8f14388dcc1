package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/seal"
)

// prove has the Prover sign for all chosen paths.
func (r *race) prove(ctx context.Context, now time.Time) {
	if r.single() {
		r.chosen = r.chosen[:1]
	}
	r.proving, r.lost = true, now.Add(proveWithin+answerWithin)
	r.starts = nil
	for _, p := range r.paths {
		if !slices.Contains(r.chosen, p) {
			p.die()
		}
	}
	who := r.k.Prover.Credential()
	var transcripts []seal.Transcript
	for _, p := range r.chosen {
		transcripts = append(transcripts, p.v.Transcript(r.k.Request, who))
	}
	r.k.Tell(Proving)
	r.beside.Go(func() {
		within, cancel := context.WithTimeoutCause(ctx, proveWithin, errProveLate)
		defer cancel()
		b, err := r.k.Prover.Prove(within, seal.Message(transcripts...))
		if err != nil && errors.Is(context.Cause(within), errProveLate) {
			err = errProveLate
		}
		select {
		case r.proofs <- proof{transcripts, b, err}:
		case <-ctx.Done():
		}
	})
}

// request sends the requests.
func (r *race) request(ctx context.Context, got proof) error {
	if got.err != nil {
		return got.err
	}
	who, now := r.k.Prover.Credential(), time.Now()
	who.Proof = got.proof
	first, second := got.transcripts[0], got.transcripts[len(got.transcripts)-1]
	for i, p := range r.chosen {
		d, err := p.v.Request(r.k.Request, who, first, second, p.stream)
		if errors.Is(err, seal.ErrTooLong) {
			return &TooLongError{TCP: p.stream}
		}
		if err != nil {
			return err
		}
		switch {
		case p.stage == challenged:
			p.stage, p.asked = requested, true
			p.send(now, d)
		case p.stream:
			// The connection has ended while the proof was made. A request may come over
			// another one: its state is for the address.
			r.chosen[i] = &path{at: p.at, stream: true, stage: requested, asked: true, v: p.v, request: d, roundTrip: p.roundTrip}
			r.open(ctx, r.chosen[i])
		}
	}
	r.proving, r.lost = false, now.Add(answerWithin)
	return nil
}

// answered takes an answer. Each replaces the one before.
func (r *race) answered(p *path, a seal.Answer, now time.Time) {
	if p.stage != requested {
		return
	}
	p.answer = &Answer{Answer: a, Gateway: p.at, Stream: p.stream, RoundTrip: p.roundTrip, Took: now.Sub(r.began)}
	if a.Status != seal.Starting {
		p.quiet()
		p.stage = answered
		if r.last.IsZero() {
			r.last = now.Add(lastAnswer)
		}
		return
	}
	// The request that comes again is answered again: in case the next answer is lost.
	p.pause, p.again = askAgain, now.Add(askAgain)
	if !r.waking {
		r.waking, r.lost = true, now.Add(r.k.Starting)
		r.k.Tell(Waking)
	}
}

// answers are those that there are, the final ones if there are any.
func (r *race) answers() (all []Answer) {
	for _, p := range r.chosen {
		if p.answer != nil {
			all = append(all, *p.answer)
		}
	}
	return all
}

// unanswered says whether a request was made to which there is no final answer.
func (r *race) unanswered() bool {
	return slices.ContainsFunc(r.chosen, func(p *path) bool {
		return p.asked && (p.answer == nil || p.answer.Status == seal.Starting)
	})
}

// judgeAnswers says whether there are answers enough.
func (r *race) judgeAnswers(now time.Time) (ended bool, err error) {
	open := slices.ContainsFunc(r.chosen, func(p *path) bool { return p.stage == requested })
	final := slices.ContainsFunc(r.chosen, func(p *path) bool { return p.stage == answered })
	waking := slices.ContainsFunc(r.chosen, func(p *path) bool { return p.stage == requested && p.answer != nil })
	switch {
	case open && now.Before(r.lost) && (!final || waking || now.Before(r.last)):
		return false, nil
	case final:
		return true, r.refusal()
	case waking || r.waking:
		return true, &StartingError{After: r.k.Starting}
	}
	return true, &LostError{Gateway: r.chosen[0].at, TCP: r.chosen[0].stream}
}

// refusal is the error if the gateway has done nothing.
func (r *race) refusal() error {
	var refused *RefusedError
	for _, p := range r.chosen {
		if p.answer == nil {
			continue
		}
		if p.answer.done() {
			return nil
		}
		if p.answer.Status == seal.Refused && refused == nil {
			refused = newRefusal(p.answer.Answer, r.k.Prover.Credential().Kind, time.Now())
		}
	}
	if refused == nil {
		return &StartingError{After: r.k.Starting}
	}
	return refused
}
