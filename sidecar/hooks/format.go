package hooks

import (
	"encoding/json"
	"maps"
	"time"
)

// The formats of a notice.
const (
	FormatJSON         = "json"         // the Event itself
	FormatAlertmanager = "alertmanager" // Alertmanager's webhook, version 4
	FormatPagerDuty    = "pagerduty"    // PagerDuty's Events API, version 2
	FormatOpsgenie     = "opsgenie"     // Opsgenie's Alert API, version 2
)

// Formats are all of them.
var Formats = []string{FormatJSON, FormatAlertmanager, FormatPagerDuty, FormatOpsgenie}

// formats write the body of a request.
var formats = map[string]func(e *Event, key string) ([]byte, error){
	FormatJSON:         func(e *Event, _ string) ([]byte, error) { return json.Marshal(e) },
	FormatAlertmanager: alertmanager,
	FormatPagerDuty:    pagerDuty,
	FormatOpsgenie:     opsgenie,
}

// severity is what a person should make of it.
func (e *Event) severity() string {
	switch e.Kind {
	case Blocked:
		return "critical"
	case Failover, Stopped:
		return "warning"
	default:
		return "info"
	}
}

// topic is what a receiver groups events by: what opens and what closes an alert has
// the same one.
func (e *Event) topic() string {
	kind := e.Kind
	switch {
	case kind == Unblocked:
		kind = Blocked
	case kind.role():
		kind = "role"
	}
	return "pgsidecar/" + e.Cluster + "/" + e.Member + "/" + string(kind)
}

// labels are the event's parts, as texts.
func (e *Event) labels() map[string]string {
	l := map[string]string{"event": string(e.Kind), "cluster": e.Cluster, "member": e.Member, "severity": e.severity()}
	for name, value := range map[string]string{"role": string(e.Role), "leader": e.Leader, "from": e.From} {
		if value != "" {
			l[name] = value
		}
	}
	return l
}

func alertmanager(e *Event, _ string) ([]byte, error) {
	status, ends := "firing", time.Time{}
	if e.Kind == Unblocked {
		status, ends = "resolved", e.At
	}
	labels, notes := e.labels(), map[string]string{"summary": e.Summary}
	labels["alertname"] = "pgsidecar_" + string(e.Kind)
	if e.Kind == Unblocked {
		labels["alertname"] = "pgsidecar_" + string(Blocked)
	}
	maps.Copy(notes, e.Details)
	return json.Marshal(map[string]any{
		"version": "4", "groupKey": e.topic(), "status": status, "receiver": "pgsidecar", "truncatedAlerts": 0,
		"groupLabels": map[string]string{"cluster": e.Cluster}, "commonLabels": labels, "commonAnnotations": notes, "externalURL": "",
		"alerts": []any{map[string]any{
			"status": status, "labels": labels, "annotations": notes, "startsAt": e.At, "endsAt": ends, "generatorURL": "", "fingerprint": e.ID,
		}},
	})
}

func pagerDuty(e *Event, key string) ([]byte, error) {
	action := "trigger"
	if e.Kind == Unblocked {
		action = "resolve"
	}
	return json.Marshal(map[string]any{
		"routing_key": key, "event_action": action, "dedup_key": e.topic(),
		"payload": map[string]any{
			"summary": e.Summary, "source": e.Member, "severity": e.severity(), "timestamp": e.At, "component": "postgresql",
			"group": e.Cluster, "class": string(e.Kind), "custom_details": e.Details,
		},
	})
}

func opsgenie(e *Event, _ string) ([]byte, error) {
	priority := map[string]string{"critical": "P1", "warning": "P3", "info": "P5"}[e.severity()]
	return json.Marshal(map[string]any{
		"message": e.Summary, "alias": e.topic(), "source": e.Member, "entity": e.Cluster, "priority": priority,
		"tags": []string{string(e.Kind)}, "details": e.Details,
	})
}
