package trace

import (
	"strconv"
	"time"
)

// Backup is one that its maker gives an account of.
type Backup struct {
	System             string // the database's identifier
	Name, Kind, Member string
	Label              string // empty: none was made
	Began, Made, Ended time.Time
	Error              string
}

// OfBackup is the trace of a backup that began then.
func OfBackup(systemID, name string, began time.Time) TraceID {
	return Derive("backup", systemID, name, strconv.FormatInt(began.UnixNano(), 10))
}

// Spans are the backup, the making, and what came after it: retention.
func (b Backup) Spans() []Span {
	t := OfBackup(b.System, b.Name, b.Began)
	root := Span{Trace: t, ID: t.Root(), Name: "backup", From: b.Began, To: b.Ended, Error: b.Error, Attributes: []Attribute{
		{"pgsidecar.member", b.Member}, {"pgsidecar.backup", b.Name}, {"pgsidecar.kind", b.Kind}, {"pgsidecar.label", b.Label}}}
	made := t.below(b.Member, "make", b.Began, b.Made)
	made.Error = b.Error
	spans := []Span{root, made}
	if b.Error == "" {
		spans = append(spans, t.below(b.Member, "expire", b.Made, b.Ended))
	}
	return spans
}

// Asked is the leader's part in a backup that another member makes.
func (b Backup) Asked(leader string, from, to time.Time) Span {
	return OfBackup(b.System, b.Name, b.Began).below(leader, "ask", from, to)
}
