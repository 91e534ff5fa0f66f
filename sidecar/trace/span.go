package trace

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// TraceID and SpanID are OpenTelemetry's identifiers.
type (
	TraceID [16]byte
	SpanID  [8]byte
)

// String is the identifier as OTLP's JSON has it.
func (t TraceID) String() string { return hex.EncodeToString(t[:]) }

// String is the identifier as OTLP's JSON has it.
func (s SpanID) String() string { return hex.EncodeToString(s[:]) }

// Derive is the trace of an event, by what all who take part in it know of it.
func Derive(parts ...string) TraceID {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return TraceID(sum[:16])
}

// Root is the span that all others of a trace are below.
func (t TraceID) Root() SpanID { return t.Span("") }

// Span is a span of a trace by its name, which each of its spans has for itself.
func (t TraceID) Span(name string) SpanID {
	sum := sha256.Sum256(append(t[:], name...))
	return SpanID(sum[:8])
}

// Span is one thing that took time.
type Span struct {
	Trace    TraceID
	ID       SpanID
	Parent   SpanID // zero: it is the root
	Name     string
	From, To time.Time
	// Attributes are its details, in their order.
	Attributes []Attribute
	Error      string // what it failed with; empty: it did not
}

// Attribute is one detail.
type Attribute struct{ Key, Value string }

// below is a span of a trace below its root. The name of its member tells it from others'.
func (t TraceID) below(member, name string, from, to time.Time) Span {
	return Span{Trace: t, ID: t.Span(member + " " + name), Parent: t.Root(), Name: name, From: from, To: to,
		Attributes: []Attribute{{"pgsidecar.member", member}}}
}
