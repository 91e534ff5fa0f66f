package postgres

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// Why a server did not come up, or waits for log, is read in its log: in English, in its
// output or in a file of its log collector. Where the operator has chosen otherwise,
// that stands; what is needed besides is added here.

// readable are the places of log_destination that this process can read. Without a
// collector csvlog and jsonlog go to the output.
var readable = []string{string(stderrLog), string(csvLog), string(jsonLog)}

// destination is what log_destination has to be so that this process can read the log as
// well, where it goes to syslog alone; empty: it can.
func (s *Server) destination(ctx context.Context, set Settings, user string) string {
	const name = "log_destination"
	named := func(parameter string) bool { return strings.EqualFold(parameter, name) }
	if !s.altered(name) && !sets(user, name) && !slices.ContainsFunc(slices.Collect(maps.Keys(set.Parameters)), named) {
		return ""
	}
	set.destination = ""
	is, err := s.askConf(ctx, set, user, name)
	if err != nil || is == "" {
		return "" // what is wrong is said where the configuration is tried
	}
	for place := range strings.SplitSeq(strings.ToLower(is), ",") {
		if slices.Contains(readable, strings.TrimSpace(place)) {
			return ""
		}
	}
	return is + "," + string(stderrLog)
}

// SpeakPlainly has the next start log in English, and all that is severe: the last one
// ended before the server was ready, and its log did not tell that its data are damaged.
func (s *Server) SpeakPlainly() {
	s.mu.Lock()
	s.starts.plain = true
	s.mu.Unlock()
}

// unheard are settings by which a log does not tell why a start failed, and what is set
// instead for the next one.
var unheard = []struct {
	parameter, instead string
	hides              func(value string) bool
}{
	{"lc_messages", "C", func(value string) bool {
		language, _, _ := strings.Cut(strings.ToLower(value), ".")
		return value != "" && language != "c" && language != "posix" && !strings.HasPrefix(language, "en")
	}},
	{"log_min_messages", "fatal", func(value string) bool { return value == "panic" }},
}

// plainArguments are what the postmaster is told so that this process can read its log.
// Only the command line comes before ALTER SYSTEM.
func (s *Server) plainArguments(ctx context.Context, set Settings) (args []string) {
	user, _ := s.keptUserConf() // what writeConfig has just chosen, if there is any
	if d := s.destination(ctx, set, user); d != "" && s.altered("log_destination") {
		args = append(args, "-c", "log_destination="+d)
	}
	s.mu.Lock()
	plain := s.starts.plain
	s.starts.plain = false
	s.mu.Unlock()
	if !plain {
		return args
	}
	for _, u := range unheard {
		value, err := s.askConf(ctx, set, user, u.parameter)
		if err != nil || !u.hides(value) {
			continue
		}
		s.log.Warn("the last start failed, and its log does not say why in words that pgsidecar can read; this start logs with another setting",
			"parameter", u.parameter, "value", value, "until_next_restart", u.instead)
		args = append(args, "-c", u.parameter+"="+u.instead)
	}
	return args
}
