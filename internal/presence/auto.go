//go:build linux

package presence

import (
	"context"
	"fmt"
	"time"
)

type autoSource struct{}

func newAuto() *autoSource { return &autoSource{} }

func (s *autoSource) last(context.Context, time.Time) (Login, bool, []string, error) {
	return Login{}, false, nil, fmt.Errorf("%w: not read yet", ErrNoData)
}

func (s *autoSource) String() string { return "auto" }
