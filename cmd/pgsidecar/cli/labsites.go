package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// labSites says which of two sites takes the writes; empty: there is one site.
func labSites(ctx context.Context, l *lab.Lab) string {
	if l.Other() == nil {
		return ""
	}
	var all []*api.Status
	for _, site := range l.Sites() {
		all = append(all, askLab(ctx, site))
	}
	return "\n" + sitesWords(l, all)
}

// sitesWords has a line for each site: what it does, as it says itself.
func sitesWords(l *lab.Lab, all []*api.Status) string {
	var b strings.Builder
	for i, site := range l.Sites() {
		var st *api.Status
		if i < len(all) {
			st = all[i]
		}
		fmt.Fprintf(&b, "  %-8s %s\n", site.Name(), siteLine(st))
	}
	return b.String()
}

// siteLine says in a few words what a site does.
func siteLine(st *api.Status) string {
	switch {
	case st == nil:
		return "does not answer"
	case st.Site == nil:
		return "knows no other site yet"
	}
	s := st.Site
	line := fmt.Sprintf("follows %s (epoch %d)", s.Name, s.Epoch)
	if !s.Follows {
		line = fmt.Sprintf("takes the writes (epoch %d)", s.Epoch)
	} else if s.Lag != nil {
		line += fmt.Sprintf(", %d bytes behind", *s.Lag)
	}
	if s.WitnessProblem != "" {
		line += "; it does not reach the witness"
	}
	if s.WhyNot != "" {
		line += "; no switch now: " + s.WhyNot
	}
	return line
}

// siteKeys are the keys of a lab of two sites.
func siteKeys() string {
	return key("w") + " switch the site " + key("x") + " cut the sites off " + key("l") + " lose the site " + key("p") + " promote the other "
}

// siteKey returns what a key does to the site that takes the writes; nil: it is no key here.
func (v *labView) siteKey(ctx context.Context, key string, site *lab.Lab) (what string, do func() error) {
	if site.Other() == nil {
		return "", nil
	}
	types := func(at *lab.Lab, args ...string) func() error {
		return func() error {
			_, err := at.Pgsidecar(ctx, at.Plan().Members()[0].Name, "yes", args...)
			return err
		}
	}
	switch key {
	case "w":
		return "switched from " + site.Name() + " to " + site.Other().Name(), types(site, "site", "switch")
	case "x":
		return "cut the sites off from each other; h joins them", func() error { return site.CutSites(ctx) }
	case "l":
		return "lost " + site.Name() + "; p promotes " + site.Other().Name() + ", h brings it back", func() error { return site.LoseSite(ctx) }
	case "p":
		return "promoted " + site.Other().Name(), types(site.Other(), "site", "promote", "--accept-data-loss", "--yes")
	}
	return "", nil
}
