package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) restart(ctx context.Context, body []byte) (int, string, error) {
	req, err := s.restartRequest(body)
	if err != nil {
		return 0, "", err
	}
	if _, planned := s.plannedRestart(); planned && !req.At.IsZero() {
		return 0, "", Refuse(http.StatusConflict, "Another restart is already scheduled")
	}
	if err := s.control.Restart(ctx, req); err != nil {
		return 0, "", err
	}
	if !req.At.IsZero() {
		return http.StatusAccepted, "Restart scheduled", nil
	}
	return http.StatusOK, "restarted successfully", nil
}

// plannedRestart is this member's.
func (s *Server) plannedRestart() (r Restart, planned bool) {
	f, known := s.facts()
	if !known {
		return r, false
	}
	r, planned = f.Restarts[f.self()]
	return r, planned
}

// postgresVersion is how Patroni writes one.
var postgresVersion = regexp.MustCompile(`^\d{1,3}\.\d{1,4}(\.\d{1,4})?$`)

// restartRequest reads the body of POST /restart: when, and the filters that must hold
// then.
func (s *Server) restartRequest(body []byte) (req Restart, err error) {
	filters := map[string]any{}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &filters); err != nil {
			return req, Refuse(badRequest, "the body cannot be read: %v", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		value := filters[name]
		text, _ := value.(string)
		switch name {
		case "schedule":
			req.At, err = s.restartTime(text)
		case "role":
			req.Role = text
			if !slices.Contains([]string{"primary", "replica", "standby_leader"}, text) {
				err = Refuse(badRequest, "PostgreSQL role should be either primary, standby_leader, or replica")
			}
		case "postgres_version":
			req.PostgresVersion = text
			if !postgresVersion.MatchString(text) {
				err = Refuse(badRequest, "Invalid PostgreSQL version: a text like \"15.2\" is expected")
			}
		case "timeout":
			req.Timeout, err = parseTimeout(value)
		case "restart_pending":
			req.Pending, err = truth(name, value)
		default:
			err = Refuse(badRequest, "Unknown filter for the scheduled restart: %s", name)
		}
		if err != nil {
			return req, err
		}
	}
	return req, nil
}

// restartTime reads when a restart is to be.
func (s *Server) restartTime(text string) (time.Time, error) {
	if f, known := s.facts(); known && f.paused() {
		return time.Time{}, Refuse(http.StatusInternalServerError, "Can't schedule restart in the paused state")
	}
	return parseSchedule(text, "restart")
}

// truth reads a truth value, which Patroni's clients also write as text.
func truth(name string, value any) (bool, error) {
	switch v := value.(type) {
	case nil:
		return false, nil
	case bool:
		return v, nil
	case string:
		if is, err := strconv.ParseBool(strings.ToLower(v)); err == nil {
			return is, nil
		}
	}
	return false, Refuse(badRequest, "%s: true or false is expected", name)
}

// parseTimeout reads a number of seconds, or PostgreSQL's notation of a time.
func parseTimeout(v any) (time.Duration, error) {
	text := strings.ReplaceAll(fmt.Sprint(v), " ", "")
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		text += "s"
	}
	d, err := time.ParseDuration(strings.Replace(text, "min", "m", 1))
	if err != nil || d <= 0 {
		return 0, Refuse(badRequest, "Timeout should be a positive number of seconds")
	}
	return d, nil
}

// clockTimes are the forms of a time that Patroni's clients send, without a zone.
func clockTimes() []string {
	var all []string
	for _, between := range []string{"T", " "} {
		for _, clock := range []string{"15:04:05", "15:04", "150405", "1504"} {
			all = append(all, "2006-01-02"+between+clock, "20060102"+between+clock)
		}
	}
	return all
}

// timesWithZone are those forms with a zone.
func timesWithZone() []string {
	var all []string
	for _, clock := range clockTimes() {
		for _, zone := range []string{"Z07:00", "Z0700", "Z07"} {
			all = append(all, clock+zone)
		}
	}
	return all
}

// parseSchedule reads a time in the future with its time zone. It returns a
// Refusal: 400 without a zone, 422 for the past or for what is not a time.
func parseSchedule(text, what string) (time.Time, error) {
	text = strings.TrimSpace(text)
	for _, name := range []string{"UTC", "GMT"} { // no other name stands for one zone alone
		if before, is := strings.CutSuffix(text, name); is {
			text = before + "Z"
		}
	}
	if i := strings.LastIndexByte(text, ' '); i > 0 && i < len(text)-1 && strings.ContainsRune("Z+-", rune(text[i+1])) {
		text = text[:i] + text[i+1:] // a space before the zone
	}
	for _, layout := range timesWithZone() {
		at, err := time.Parse(layout, text)
		switch {
		case err != nil:
			continue
		case at.Before(time.Now()):
			return time.Time{}, Refuse(unprocessable, "Cannot schedule %s in the past", what)
		}
		return at, nil
	}
	for _, layout := range clockTimes() {
		if _, err := time.Parse(layout, text); err == nil {
			return time.Time{}, Refuse(badRequest, "Timezone information is mandatory for the scheduled %s", what)
		}
	}
	return time.Time{}, Refuse(unprocessable, "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601")
}
