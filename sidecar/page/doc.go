// Package page is the cluster's page: one file of HTML, a style sheet and a few scripts,
// which every member's API serves under /ui, and the stream of events that keeps an open
// page up to date.
//
//	GET /ui            the page
//	GET /ui/NAME       its style sheet, scripts and picture
//	GET /ui/events     server-sent events: "live", and "past" and "elsewhere" (what proxies of
//	                   other hosts say) when they have changed
//	GET /ui/seldom     the last drills, and the clusters that the same Consul knows
//
// The page only reads. What its buttons do are the API's own changes, which want the
// API's token each time; the page keeps none. It loads nothing from another host, and its
// Content-Security-Policy forbids that, and scripts and styles in the text, as well.
// Everything that it shows was written by somebody else: its scripts make text of it,
// never markup (textContent; require-trusted-types-for makes the browser insist).
//
// files/uplot is uPlot (https://github.com/leeoniya/uPlot), with its licence.
//
// # Cost
//
// Two goroutines serve all open pages, while there are any. Follow watches the member. It
// makes the text of an event once: at once when something has changed that a person waits
// for (Source.Urgent), else once a second. There are at most MaxStreams streams; more are
// refused, and a browser asks again.
//
// # Goroutines
//
//	follow     reads the source while a page is open; ends with the last, or with Close
//	ask        asks other hosts, every five seconds, as long as follow runs
//
// Each stream's goroutine is the server's own for its request.
package page
