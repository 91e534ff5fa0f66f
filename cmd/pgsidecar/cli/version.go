package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// newVersionCommand returns `pgsidecar version`.
func newVersionCommand(a *Process) *cobra.Command {
	var format output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if !format.forPeople() {
				return format.write(a.Stdout, map[string]string{"version": a.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			_, err := fmt.Fprintf(a.Stdout, "pgsidecar %s\n", versionWords(a))
			return err
		},
	}
	format.flag(cmd)
	return cmd
}

// versionWords is what `version` and --version print.
func versionWords(a *Process) string {
	return fmt.Sprintf("%s (%s %s/%s)", a.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
