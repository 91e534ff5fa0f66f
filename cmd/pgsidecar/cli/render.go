package cli

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/proxy"
)

// newRenderCommand returns `render`: what proxy would write.
func newRenderCommand(a *Process) *cobra.Command {
	var o proxy.RenderOptions
	var path, builtin string
	var format output
	cmd := &cobra.Command{
		Use:   "render [TEMPLATE ...]",
		Short: "Show what the configured files would be, beside what they are; write nothing",
		Long: `Show what the configured files would be for the cluster as it is now, as a
difference to what stands at their destinations. Nothing is written, checked or
run. Name templates to see only those.

With --builtin, print the text of a template that pgsidecar brings, to begin your
own with, or of one of the files for consul-template and Nomad.

Exit status: 0 if nothing would change, 3 if something would.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if builtin != "" {
				return proxy.PrintBuiltin(a.Stdout, builtin)
			}
			cfg, err := loadEither(a, path)
			if err != nil {
				return err
			}
			all, err := o.Render(cmd.Context(), cfg, names)
			if err := errors.Join(err, showRendered(a.Stdout, all, format)); err != nil {
				return err
			}
			if !o.Whole && slices.ContainsFunc(all, func(r proxy.Rendered) bool { return r.Differs }) {
				return exitStatus(exitDiffers)
			}
			return nil
		},
	}
	format.flag(cmd)
	cmd.Flags().StringVar(&path, "config", "proxy.hcl", "the proxy's configuration `file`, or a member's")
	cmd.Flags().StringVar(&builtin, "builtin", "", "print the template `name`, or \"list\" for the names")
	cmd.Flags().BoolVar(&o.Whole, "whole", false, "print the whole files, not the difference")
	cmd.Flags().DurationVar(&o.Timeout, "timeout", 10*time.Second, "how long to wait for Consul")
	return cmd
}

// showRendered prints what the files would be, or how they would change.
func showRendered(w io.Writer, all []proxy.Rendered, format output) error {
	if !format.forPeople() {
		return format.write(w, append([]proxy.Rendered{}, all...))
	}
	for _, r := range all {
		text := r.Diff
		if r.Content != "" {
			text = "==> " + r.Destination + " <==\n" + r.Content
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

// exitDiffers is render's status when something would change.
const exitDiffers = 3
