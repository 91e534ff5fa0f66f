package programs

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOpenSource: whatever .tools loads or builds into .cache/bin is open source, by
// the licence file of its module or of Debian's package. A program that stands there
// as a symbolic link is the person's own, and was not fetched by us.
func TestOpenSource(t *testing.T) {
	if testing.Short() {
		t.Skip("make programs keeps the licence files")
	}
	bin := "../../../.cache/bin"
	entries, err := os.ReadDir(bin)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("nothing was loaded or built")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		text, err := licenceOf(filepath.Join(bin, e.Name()))
		if err != nil {
			t.Errorf("%s: %v", e.Name(), err)
			continue
		}
		name, err := openSource(text)
		if err != nil {
			t.Errorf("%s: %v", e.Name(), err)
		}
		t.Logf("%s: %s", e.Name(), name)
	}
}

// errLicence is returned for a program of unknown licence.
var errLicence = errors.New("its licence is not known to be open source")

// openSource returns the licence that a text is of.
func openSource(text string) (string, error) {
	text = strings.Join(strings.Fields(text), " ")
	for _, closed := range []string{"Business Source License", "Server Side Public License", "Elastic License", "Commons Clause"} {
		if strings.Contains(text, closed) {
			return closed, fmt.Errorf("%w: %s", errLicence, closed)
		}
	}
	for _, open := range []struct{ words, name string }{
		{"Mozilla Public License", "MPL-2.0"}, {"License: MPL", "MPL-2.0"},
		{"Apache License", "Apache-2.0"}, {"License: Apache-2.0", "Apache-2.0"},
		{"Permission is hereby granted, free of charge", "MIT"},
		{"Redistribution and use in source and binary forms", "BSD"},
		{"GNU GENERAL PUBLIC LICENSE", "GPL"},
	} {
		if strings.Contains(text, open.words) {
			return open.name, nil
		}
	}
	return "", errLicence
}

// licenceOf returns the licence file of a program: the one kept beside it, or that of
// the module that it was built from.
func licenceOf(program string) (string, error) {
	if text, err := os.ReadFile(program + ".copyright"); err == nil {
		return string(text), nil
	}
	built, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("%w: no %s.copyright beside it, and %w; run make programs", errLicence, filepath.Base(program), err)
	}
	path, version := built.Main.Path, built.Main.Version
	for _, dep := range built.Deps { // built by a module of .tools, which names it
		if strings.HasPrefix(built.Path+"/", dep.Path+"/") {
			path, version = dep.Path, dep.Version
		}
	}
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("find Go's modules: %w", err)
	}
	escaped := ""
	for _, r := range path {
		if r >= 'A' && r <= 'Z' {
			escaped += "!"
		}
		escaped += strings.ToLower(string(r))
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(cache)), escaped+"@"+version, "LICEN[CS]E*"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("%w: no licence file of %s %s among Go's modules; run make programs", errLicence, path, version)
	}
	text, err := os.ReadFile(files[0])
	return string(text), err
}

// TestOpenSourceFindsOthers plants what TestOpenSource exists for.
func TestOpenSourceFindsOthers(t *testing.T) {
	for text, want := range map[string]string{
		"License text copyright (c) 2020 MariaDB. Business Source\nLicense 1.1 ... Mozilla Public License, when four years have gone": "",
		"Mozilla Public License, version\n2.0":                       "MPL-2.0",
		"Permission is hereby granted, free\nof charge, to any":      "MIT",
		"All rights reserved.":                                       "",
		"Apache License Version 2.0, with the Commons Clause":        "",
		"                              Apache License\n Version 2.0": "Apache-2.0",
	} {
		got, err := openSource(text)
		if (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := licenceOf(file); !errors.Is(err, errLicence) {
		t.Errorf("a script of nobody: %v", err)
	}
}
