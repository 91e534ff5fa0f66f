package settings

import (
	"slices"
)

// Beside adds the members of a pause to one that holds.
func Beside(now, p Pause) Pause {
	p.Members = slices.Concat(now.Members, p.Members)
	slices.Sort(p.Members)
	p.Members = slices.Compact(p.Members)
	if now.Until.IsZero() || !p.Until.IsZero() && p.Until.Before(now.Until) {
		p.Until = now.Until
	}
	if p.Reason == "" {
		p.Reason = now.Reason
	}
	return p
}

// PausePatch is the merge patch that puts a pause in the place of any before: what
// it has not is null, and so removed.
func PausePatch(p Pause) map[string]any {
	patch := map[string]any{"until": nil, "members": nil, "reason": nil}
	if !p.Until.IsZero() {
		patch["until"] = p.Until
	}
	if len(p.Members) > 0 {
		patch["members"] = p.Members
	}
	if p.Reason != "" {
		patch["reason"] = p.Reason
	}
	return patch
}
