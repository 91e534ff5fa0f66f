// Package trace tells a collector of OpenTelemetry what happened, as spans: OTLP over HTTP,
// in its JSON encoding (https://opentelemetry.io/docs/specs/otlp/, protocol 1.x).
//
//	span.go      a span, and the identifiers by which members' spans join
//	term.go      the trace of a term: a failover or a switchover, on its leader and the others
//	exporter.go  the queue, and the requests
//
// A trace's identifier is derived from what all members know of the event (the database's
// system identifier and the number of the term), so that nothing has to be carried between
// them: each exports its own spans, and a collector shows one trace over the members. Their
// clocks are those of their hosts.
//
// Exporting is never in the way: Offer puts spans into a bounded queue and returns; what
// does not fit is dropped and counted. A collector that is slow or away costs one goroutine
// a request with a deadline, and the spans.
//
// It is written by hand: OpenTelemetry's SDK with its exporter (1.47) adds 11.7 MB to a
// program that only asks by HTTP, for what is one kind of request here.
//
// The package has one goroutine, Run.
package trace
