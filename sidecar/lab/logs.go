package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// CopyLogs copies the logs of all programs to a folder, with one folder for each
// host, beside the plan and the journal: what is to be looked at when the lab is
// gone. It copies what it can.
func (l *Lab) CopyLogs(to string) error {
	errs := []error{copyFile(l.plan.path(), to), copyFile(journalPath(l.plan.Dir), to)}
	for _, h := range l.plan.Hosts {
		for _, pattern := range []string{"*.log", filepath.Join("postgres", "*.log"), filepath.Join("postgres", "*", "*.log")} {
			logs, err := filepath.Glob(filepath.Join(h.Dir, pattern))
			errs = append(errs, err)
			for _, path := range logs {
				errs = append(errs, copyFile(path, filepath.Join(to, h.Name)))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("copy the lab's logs: %w", err)
	}
	return nil
}

// copyFile copies a file into a folder, which it makes.
func copyFile(path, folder string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, filepath.Base(path)), b, 0o644)
}
