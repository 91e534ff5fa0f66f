package pgbackrest

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
)

// codes are pgBackRest's exit codes (its src/build/error/error.yaml) that mean one
// thing whatever was done.
var codes = map[int]error{
	31: backup.ErrSetting, 32: backup.ErrSetting, 37: backup.ErrSetting,
	38: backup.ErrServing,
	40: backup.ErrNotEmpty,
	44: backup.ErrOtherCluster, 51: backup.ErrOtherCluster, 58: backup.ErrOtherCluster,
	49: backup.ErrNoRepository,
	50: backup.ErrRunning,
	56: backup.ErrServer,
	68: backup.ErrArchiving, 82: backup.ErrArchiving, 87: backup.ErrArchiving,
	75: backup.ErrNoBackup,
	95: backup.ErrKey,
}

// words are parts of messages that mean one thing, whatever the code is: first
// match counts.
var words = []struct {
	part string
	kind error
}{
	{"No space left on device", backup.ErrFull},
	{"Disk quota exceeded", backup.ErrFull},
	// With a wrong key the content is no text, and pgBackRest also guesses that the
	// stanza was never made; so these come first.
	{"CryptoError", backup.ErrKey},
	{"FormatError", backup.ErrKey},
	{"cipher header invalid", backup.ErrKey},
	{"is or was the repo encrypted", backup.ErrKey},
	{"ArchiveMismatchError", backup.ErrOtherCluster},
	{"do not match the database", backup.ErrOtherCluster},
	{"has a stanza-create been performed", backup.ErrNoRepository},
	{"DbConnectError", backup.ErrServer},
	{"unable to find primary cluster", backup.ErrServer},
	{"no backup set found to restore", backup.ErrNoBackup},
}

// remedies say what a person does next.
var remedies = map[error]string{
	backup.ErrNoRepository: "is the repository's path right, and was it made ready? pgsidecar backup check does so",
	backup.ErrKey:          "the repository was made with another key, or with none: look at key_file",
	backup.ErrOtherCluster: "a repository of another cluster is left untouched: choose another stanza or path",
	backup.ErrFull:         "make room, or shorten retention and run pgsidecar backup expire",
	backup.ErrRunning:      "wait for it, or look for a pgbackrest process",
}

var prefix = regexp.MustCompile(`^(P\d\d )?\s*(ERROR|WARN|INFO|DETAIL|ASSERT): (\[\d+\]: )?`)

// failure turns what pgBackRest said into an error of one line.
func failure(err error) error {
	var f *program.Failed
	if !errors.As(err, &f) {
		return err
	}
	line, kind := match(f.Said)
	if kind == nil {
		kind = codes[f.Code]
	}
	return worded(kind, line, f.Said)
}

// said is failure for a message without an exit code.
func said(message string) error {
	line, kind := match(message)
	if kind == nil {
		kind = errInfo
	}
	return worded(kind, line, message)
}

// lines takes a message apart; package program joins a program's lines by semicolons.
func lines(message string) []string {
	all := strings.FieldsFunc(message, func(r rune) bool { return r == '\n' || r == ';' })
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}

// match returns what the message means, and the line that says so if it is one of
// its own: not a hint, nor the continuation of another.
func match(message string) (line string, kind error) {
	for _, w := range words {
		if !strings.Contains(message, w.part) {
			continue
		}
		for _, l := range lines(message) {
			if strings.Contains(l, w.part) && prefix.MatchString(l) {
				return l, w.kind
			}
		}
		return "", w.kind
	}
	for _, l := range lines(message) {
		if shortWrite.MatchString(l) {
			return l, backup.ErrFull
		}
	}
	return "", nil
}

// shortWrite is a write that failed without an error of the system: it wrote less
// than it should, as the last one does on a file system that becomes full.
var shortWrite = regexp.MustCompile(`unable to write '[^']*'$`)

// longest is how much of a line is repeated.
const longest = 300

// worded keeps one line, by default the last error's first, and adds the remedy.
func worded(kind error, line, message string) error {
	if line == "" {
		for _, l := range lines(message) {
			if line == "" || prefix.MatchString(l) && strings.Contains(l, "ERROR: ") {
				line = l
			}
		}
	}
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, prefix.ReplaceAllString(line, ""))
	text = strings.TrimRight(text[:min(len(text), longest)], ":. ")
	switch remedy := remedies[kind]; {
	case kind == nil:
		return fmt.Errorf("pgbackrest: %s", text)
	case remedy != "":
		return fmt.Errorf("%w: %s; %s", kind, text, remedy)
	}
	return fmt.Errorf("%w: %s", kind, text)
}
