package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newDocsCommand returns `docs`, which packagers of pgsidecar run. What it
// writes comes from the commands themselves, so that it cannot differ from them.
func newDocsCommand(a *Process) *cobra.Command {
	return &cobra.Command{
		Use:   "docs DIR",
		Short: "Write a man page and a Markdown page of each command",
		Long: `Write a man page (DIR/man) and a Markdown page (DIR/markdown) of each command. The
pages have the date in SOURCE_DATE_EPOCH, if it is set.`,
		Hidden: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("%s takes one directory, and got %q", cmd.CommandPath(), args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return writeDocs(a, cmd.Root(), args[0])
		},
	}
}

func writeDocs(a *Process, root *cobra.Command, dir string) error {
	man, markdown := filepath.Join(dir, "man"), filepath.Join(dir, "markdown")
	for _, d := range []string{man, markdown} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("write pages: %w", err)
		}
	}
	forPages(root)
	header := &doc.GenManHeader{Section: "1", Source: "pgsidecar " + a.Version, Manual: "pgsidecar"}
	if err := doc.GenManTree(root, header, man); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	if err := doc.GenMarkdownTree(root, markdown); err != nil {
		return fmt.Errorf("write Markdown pages: %w", err)
	}
	_, err := fmt.Fprintf(a.Stdout, "written: %s and %s\n", man, markdown)
	return err
}

// forPages fits help to pages: no line that says when and by what it was made,
// and lists that are indented in a terminal are kept as they are.
func forPages(cmd *cobra.Command) {
	cmd.DisableAutoGenTag = true
	var b strings.Builder
	for line := range strings.Lines(cmd.Long) {
		if strings.HasPrefix(line, "  ") {
			line = "    " + line // Markdown's sign of text as it stands
		}
		b.WriteString(line)
	}
	cmd.Long = b.String()
	for _, sub := range cmd.Commands() {
		forPages(sub)
	}
}
