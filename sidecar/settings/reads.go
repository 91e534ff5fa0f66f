package settings

import (
	"fmt"
	"time"
)

// ServiceSettings override the service block.
type ServiceSettings struct {
	// ReplicaMaxLag is a size, such as "64MB", and ReplicaMaxDelay a duration in Go's
	// notation; "0": any. See ReadLimits.
	ReplicaMaxLag   string `json:"replica_max_lag,omitempty"`
	ReplicaMaxDelay string `json:"replica_max_delay,omitempty"`
}

// ReadLimits is how far behind the primary a replica may be that is to serve reads; zero:
// any.
type ReadLimits struct {
	Lag   Size          // bytes of log that it has not replayed
	Delay time.Duration // since when it lacks log; recovery_min_apply_delay counts
}

// DefaultReadLimits keep reads from a replica whose answers are of another time: one that
// replays nothing, or late on purpose. A query that holds up replay does so for 30 s
// unless max_standby_streaming_delay says more; a busy replica catches up within that.
func DefaultReadLimits() ReadLimits { return ReadLimits{Delay: time.Minute} }

func (s *ServiceSettings) check() error {
	if s == nil {
		return nil
	}
	if s.ReplicaMaxLag != "" {
		if _, err := ParseSize(s.ReplicaMaxLag); err != nil {
			return wrong("service.replica_max_lag %q: %w", s.ReplicaMaxLag, err)
		}
	}
	if s.ReplicaMaxDelay != "" {
		if d, err := time.ParseDuration(s.ReplicaMaxDelay); err != nil || d < 0 {
			return wrong("service.replica_max_delay %q: it is a duration like \"30s\", or 0 for any", s.ReplicaMaxDelay)
		}
	}
	return nil
}

// ReadLimits are these settings over a member's own.
func (set Settings) ReadLimits(own ReadLimits) ReadLimits {
	if set.Service == nil {
		return own
	}
	if size, err := ParseSize(set.Service.ReplicaMaxLag); err == nil {
		own.Lag = size
	}
	if d, err := time.ParseDuration(set.Service.ReplicaMaxDelay); err == nil && d >= 0 {
		own.Delay = d
	}
	return own
}

// Lateness is how far behind its primary a replica is.
type Lateness struct {
	Lag   Size
	Delay time.Duration
	Apply time.Duration // recovery_min_apply_delay
}

// TooLate says why a replica gets no reads; empty: it may have them. One that got none
// before must come below half of the limits, so that it does not come and go.
func (l ReadLimits) TooLate(is Lateness, before bool) string {
	lag, delay := l.Lag, l.Delay
	if before {
		lag, delay = lag/2, delay/2
	}
	switch {
	case l.Delay > 0 && is.Apply > l.Delay:
		return fmt.Sprintf("recovery_min_apply_delay is %s, and service.replica_max_delay %s", is.Apply, l.Delay)
	case l.Delay > 0 && is.Delay > delay:
		return fmt.Sprintf("it is %s behind, and service.replica_max_delay is %s", is.Delay.Round(time.Second), l.Delay)
	case l.Lag > 0 && is.Lag > lag:
		return fmt.Sprintf("it is %d MB behind, and service.replica_max_lag is %s", is.Lag>>20, l.Lag)
	}
	return ""
}
