package api

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Control does what the changes ask for. Each method returns the text of the
// answer, or a *Refusal with its status; any other error is answered with 503
// and its text, which must hold no secret.
//
// ctx ends when the client has gone or its time is over. It ends the waiting,
// never what was begun.
type Control interface {
	Leadership
	Maintenance
	Configuration
	Sites
}

// Sites changes which of two sites' clusters takes writes.
type Sites interface {
	// SwitchSite gives up the writes, and has the other site take them; nothing is lost.
	// It returns what was done, in words.
	SwitchSite(ctx context.Context, drain time.Duration) (text string, err error)
	// PromoteSite lets a standby cluster take writes itself.
	PromoteSite(ctx context.Context, req PromoteSite) (text string, err error)
}

// PromoteSite asks a standby cluster to take the writes.
type PromoteSite struct {
	// Final is what the other site had when it gave them up; nil: it is gone.
	Final *ha.Position
	// AcceptDataLoss continues without Final.
	AcceptDataLoss bool
	// Check only says whether it could.
	Check bool
}

// Leadership changes who leads, and who belongs to the cluster.
type Leadership interface {
	// Switchover hands over to the candidate (empty: the best), and returns the
	// name of the new leader. With a time it is only noted, and the name empty.
	Switchover(ctx context.Context, req Switchover) (leader string, err error)
	// CancelSwitchover forgets a planned switchover; a Refusal with 404: there is none.
	CancelSwitchover(ctx context.Context) error
	// Failover makes the candidate lead although the leader may not be there to
	// hand over, and returns the name of the new leader.
	Failover(ctx context.Context, req Failover) (leader string, err error)
	// Remove forgets a member that is gone for good.
	Remove(ctx context.Context, member string) error
}

// Maintenance is work on this member's server, and pauses of the cluster for it.
type Maintenance interface {
	// Restart restarts this member's server, or notes when to.
	Restart(ctx context.Context, req Restart) error
	// CancelRestart forgets a planned restart; a Refusal with 404: there is none.
	CancelRestart(ctx context.Context) error
	// Reinitialize begins a new clone of this member's server.
	Reinitialize(ctx context.Context, req Reinitialize) error
	// Pause and Resume begin and end maintenance.
	Pause(ctx context.Context, req Pause) error
	Resume(ctx context.Context, req Resume) error
}

// Configuration is this member's file and the cluster's settings.
type Configuration interface {
	// Reload reads this member's configuration again.
	Reload(ctx context.Context) error
	// PatchConfig changes the cluster-wide settings, and returns them as stored.
	PatchConfig(ctx context.Context, c ConfigChange) (json.RawMessage, error)
	// TryConfig refuses settings that this member's server does not take.
	TryConfig(ctx context.Context, settings json.RawMessage) error
}

// ConfigChange asks for other cluster-wide settings.
type ConfigChange struct {
	Patch   json.RawMessage // merged into them (RFC 7396: null removes), or
	Replace bool            // put in their place
	// Version that the settings must have still (View.ConfigVersion); zero: any.
	Version uint64
}

// requesterKey is the key of the requester's name in a change's context.
type requesterKey struct{}

// RequestedBy says who asked for the change that ctx belongs to: "token", or
// "certificate of" and its name. Empty: nobody from outside.
func RequestedBy(ctx context.Context) string {
	by, _ := ctx.Value(requesterKey{}).(string)
	return by
}

// Switchover asks for a planned handover. Leader is who must lead now.
type Switchover struct {
	Leader    string
	Candidate string    // empty: the best
	At        time.Time // zero: now
	Until     time.Time // how long a planned one is tried; zero: a minute
	// Drain: transactions that are open after it are ended; zero: then nothing is done.
	Drain time.Duration
}

// Failover asks for a new leader.
type Failover struct {
	Candidate string
	// AcceptDataLoss continues without the votes that safety asks for (S3).
	AcceptDataLoss bool
}

// Restart asks for a restart of the server, if the conditions hold.
type Restart struct {
	At              time.Time     // zero: now
	Role            string        // only if the member is primary or replica; empty: either
	PostgresVersion string        // only if the server is older, like "15.2"
	Pending         bool          // only if a restart is pending
	Timeout         time.Duration // zero: none
}

// Reinitialize asks for a new clone.
type Reinitialize struct {
	Force bool   // cancel what is under way
	From  string // a member; empty: chosen
	// FromLeader clones from the leader.
	FromLeader bool
}

// Pause asks for maintenance.
type Pause struct {
	For     time.Duration // zero: until it is resumed
	Members []string      // empty: all
	Reason  string
}

// Resume ends maintenance.
type Resume struct {
	Members []string // empty: all
}

// Refusal is an error with the status of its answer.
type Refusal struct {
	Status int
	Text   string
}

// Error returns the text.
func (r *Refusal) Error() string { return r.Text }

// Refuse returns a Refusal.
func Refuse(status int, format string, args ...any) error {
	return &Refusal{Status: status, Text: fmt.Sprintf(format, args...)}
}
