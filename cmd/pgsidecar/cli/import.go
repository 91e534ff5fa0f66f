package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/patroni"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// secretsHome is where the files of secrets are expected if nobody says otherwise.
const secretsHome = "/etc/pgsidecar"

func newImportCommand(a *Process) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "import PATRONI.YML",
		Short: "Write a patroni.yml as a pg.hcl, and say what has no counterpart",
		Long: "Write a patroni.yml as a pg.hcl, to stdout, and to stderr what has no counterpart and\n" +
			"what to do instead. With --out it writes pg.hcl and the files of secrets into a\n" +
			"directory, and overwrites nothing. See pgsidecar help patroni.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("%s takes one file, and got %q", cmd.CommandPath(), args)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			source, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read the configuration of Patroni: %w", err)
			}
			home := secretsHome
			if out != "" {
				if home, err = filepath.Abs(out); err != nil {
					return fmt.Errorf("find the directory: %w", err)
				}
			}
			r, err := patroni.Import(source, home)
			if err != nil {
				return usage("%s: %w", args[0], err)
			}
			return a.imported(r, out)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "write pg.hcl and the files of secrets into this `directory`")
	return cmd
}

// imported writes what became of a patroni.yml.
func (a *Process) imported(r *patroni.Result, out string) error {
	if out == "" {
		if _, err := io.WriteString(a.Stdout, r.HCL); err != nil {
			return err
		}
		a.explain(r)
		for _, path := range slices.Sorted(maps.Keys(r.Secrets)) {
			fmt.Fprintf(a.Stderr, "write the secret into %s, for the sidecar's user alone; --out DIRECTORY writes the files\n", path)
		}
		return nil
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	files := maps.Clone(r.Secrets)
	path := filepath.Join(out, "pg.hcl")
	files[path] = r.HCL
	if err := writeNew(files); err != nil {
		return err
	}
	a.explain(r)
	if _, err := config.Load(path, process.Environment()); err != nil {
		return errors.Join(reportFaults(a, err))
	}
	fmt.Fprintf(a.Stdout, "wrote %s, and its secrets into files (%d); it is valid\n", path, len(r.Secrets))
	return nil
}

// explain prints what a person should read.
func (a *Process) explain(r *patroni.Result) {
	for _, n := range r.Notes {
		fmt.Fprint(a.Stderr, hang(n.String(), helpWidth, 0))
	}
	if len(r.Settings) > 0 {
		fmt.Fprintln(a.Stderr, "for the whole cluster, once it runs:")
		for _, s := range r.Settings {
			fmt.Fprintln(a.Stderr, "  "+s)
		}
	}
}

// writeNew writes files that are not there yet: all of them, or none.
func writeNew(files map[string]string) error {
	var written []string
	for _, path := range slices.Sorted(maps.Keys(files)) {
		err := writeOne(path, files[path])
		if err == nil {
			written = append(written, path)
			continue
		}
		for _, w := range written {
			err = errors.Join(err, os.Remove(w))
		}
		return err
	}
	return nil
}

func writeOne(path, text string) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write a file: %w", err)
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	_, err = io.WriteString(file, text)
	return err
}
