package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// newVersionCommand returns `pgsidecar version`.
func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.stdout, "pgsidecar %s\n", versionWords(a))
			return err
		},
	}
}

// versionWords is what `version` and --version print.
func versionWords(a *app) string {
	return fmt.Sprintf("%s (%s %s/%s)", a.version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
