package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/member"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// editHeader is what a person reads above the settings. Lines that begin with #
// are dropped.
const editHeader = `# The settings of all members. Save and leave to see the change and to be asked;
# leave it as it is, or empty it, to change nothing. Lines that begin with # are
# dropped. The keys: pgsidecar settings set --help
`

// newSettingsEditCommand returns `settings edit`.
func newSettingsEditCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var yes bool
	cmd := &cobra.Command{
		Use:   "edit",
		Short: "Change cluster-wide settings in an editor ($VISUAL, else $EDITOR, else vi)",
		Long: `Change cluster-wide settings in an editor ($VISUAL, else $EDITOR, else vi). The change
is checked, shown, and asked about before it is stored. Wrong text comes back with
what is wrong on top; leave that as it is to give up. What is not stored is kept
in a file, which is named.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := openSettings(cmd, &flags)
			if err != nil {
				return err
			}
			return s.edit(cmd.Context(), yes)
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// edit has a person change the settings. The file is removed unless it holds
// what was not stored.
func (s *clusterSettings) edit(ctx context.Context, yes bool) error {
	file, err := os.CreateTemp("", "pgsidecar-settings-*.json")
	if err != nil {
		return fmt.Errorf("make a file to edit: %w", err)
	}
	name := file.Name()
	_, err = file.WriteString(editHeader + string(settings.Pretty(s.shown)))
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write the file to edit: %w", err)
	}
	next, err := s.edited(ctx, name)
	if err == nil {
		err = s.change(ctx, next, yes)
	}
	if err != nil {
		return fmt.Errorf("%w\nYour text is kept in %s", err, name)
	}
	return os.Remove(name)
}

// edited runs the editor until the file holds settings that may be stored, or
// a person leaves it as wrong as it was.
func (s *clusterSettings) edited(ctx context.Context, name string) ([]byte, error) {
	var wrong error
	var last string
	for {
		if err := s.runEditor(ctx, name); err != nil {
			return nil, err
		}
		file, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read what was edited: %w", err)
		}
		if wrong != nil && string(file) == last {
			return nil, fmt.Errorf("nothing was stored: %w", wrong)
		}
		text := withoutComments(string(file))
		if text == "" {
			return s.shown, nil
		}
		if _, wrong = settings.Object([]byte(text)); wrong == nil {
			_, wrong = member.CheckSettings([]byte(text), 0)
		}
		if wrong == nil {
			return []byte(text), nil
		}
		last = fmt.Sprintf("# WRONG: %s\n%s%s\n", strings.ReplaceAll(wrong.Error(), "\n", " "), editHeader, text)
		if err := os.WriteFile(name, []byte(last), 0o600); err != nil {
			return nil, fmt.Errorf("write the file to edit: %w", err)
		}
	}
}

// runEditor runs the person's editor, which may be several words, as Git does.
func (s *clusterSettings) runEditor(ctx context.Context, file string) error {
	a := s.app
	editor := cmp.Or(cmp.Or(a.Getenv("VISUAL"), a.Getenv("EDITOR")), "vi")
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "sh", file)
	if terminal, ok := a.Stdin.(*os.File); ok {
		cmd.Stdin = terminal // anything else would be read empty, and the answer with it
	}
	cmd.Stdout, cmd.Stderr = a.Stdout, a.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("nothing was stored: the editor %q failed: %w; name another one in EDITOR", editor, err)
	}
	return nil
}

// withoutComments drops lines that begin with #, and space around the rest.
func withoutComments(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			kept.WriteString(line)
		}
	}
	return strings.TrimSpace(kept.String())
}
