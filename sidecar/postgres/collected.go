package postgres

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// logFormat is how a file of PostgreSQL's log collector is written.
type logFormat string

const (
	stderrLog logFormat = "stderr"
	csvLog    logFormat = "csvlog"
	jsonLog   logFormat = "jsonlog"
)

// collectedLog is the newest file that PostgreSQL's log collector writes
// (logging_collector = on), in one of the formats that log_destination names.
type collectedLog struct {
	format logFormat
	path   string
}

// collected finds it by the file current_logfiles, which PostgreSQL writes at each change
// and removes at a start without the collector; an empty path: there is none. Plain text
// comes before the other formats.
func (s *Server) collected() collectedLog {
	content, err := s.tailOf(s.data("current_logfiles"), 4<<10, 0)
	if err != nil {
		return collectedLog{}
	}
	var found []collectedLog
	for line := range strings.Lines(string(content)) {
		format, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || path == "" {
			continue
		}
		if !filepath.IsAbs(path) {
			path = s.data(path)
		}
		found = append(found, collectedLog{logFormat(format), path})
	}
	known := []logFormat{stderrLog, csvLog, jsonLog}
	found = slices.DeleteFunc(found, func(c collectedLog) bool { return !slices.Contains(known, c.format) })
	if len(found) == 0 {
		return collectedLog{}
	}
	return slices.MinFunc(found, func(a, b collectedLog) int {
		return cmp.Compare(slices.Index(known, a.format), slices.Index(known, b.format))
	})
}

// mostLogFiles bounds how many files are remembered at a start.
const mostLogFiles = 2000

// noteLogs writes down, before a start, how long the files are that the log collector may
// append to: what is in them is of earlier lives, or of the server that they were copied
// from. A file that repeats its name each week is appended to as well.
func (s *Server) noteLogs() error {
	sizes := map[string]int64{}
	for _, dir := range []string{s.data("log"), filepath.Dir(cmp.Or(s.collected().path, s.data("log", "x")))} {
		entries, err := s.files.ReadDir(dir)
		if err != nil {
			continue // there is no log, or nobody can read it
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() && len(sizes) < mostLogFiles {
				sizes[filepath.Join(dir, e.Name())] = info.Size()
			}
		}
	}
	content, err := json.Marshal(sizes)
	if err != nil {
		return fmt.Errorf("note how long the server's log is: %w", err)
	}
	return s.write(s.state("logs"), append(content, '\n'))
}

// collectedBefore is how much of a collector's file was there before the server's present
// life: none of it where the file has begun anew since, and all of it where nobody wrote
// that down, as an earlier release.
func (s *Server) collectedBefore(path string, size int64) int64 {
	var sizes map[string]int64
	if err := readJSON(s.files, s.state("logs"), &sizes); err != nil || sizes == nil {
		return size
	}
	if before := sizes[path]; before <= size {
		return before
	}
	return 0
}

// endOfCollected is the newest of what the collector has written since the server's start,
// as PostgreSQL words it in plain text, whatever the format; limit bounds what is read.
func (s *Server) endOfCollected(limit int64) []byte {
	c := s.collected()
	if c.path == "" {
		return nil
	}
	tail, err := s.tailOf(c.path, limit, -1)
	if err != nil {
		return nil
	}
	switch c.format {
	case csvLog:
		return plainText(fromCSV(tail))
	case jsonLog:
		return plainText(fromJSON(tail))
	case stderrLog:
	}
	return tail
}

// tailOf reads the end of a regular file, and no more than limit: from the byte on which is
// given, or, if that is negative, what is of the server's present life. The file is the
// server's user's, who may have put there anything: nothing waits for it.
func (s *Server) tailOf(path string, limit, from int64) ([]byte, error) {
	f, err := s.files.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file: %w", path, fs.ErrInvalid)
	}
	if from < 0 {
		from = s.collectedBefore(path, info.Size())
	}
	from = max(from, info.Size()-limit)
	tail := make([]byte, info.Size()-from)
	n, err := f.ReadAt(tail, from)
	if errors.Is(err, io.EOF) { // it was cut off meanwhile
		err = nil
	}
	return tail[:n], err
}

// entry is one message of a log in CSV or JSON. The names are those of JSON.
type entry struct {
	Severity string `json:"error_severity"`
	Message  string `json:"message"`
	Detail   string `json:"detail"`
	Hint     string `json:"hint"`
}

// plainText words messages as they are in a log without a format.
func plainText(entries []entry) []byte {
	var b strings.Builder
	for _, e := range entries {
		for _, part := range [][2]string{{e.Severity, e.Message}, {"DETAIL", e.Detail}, {"HINT", e.Hint}} {
			if part[1] != "" {
				b.WriteString(part[0] + ":  " + strings.ReplaceAll(part[1], "\n", "\n\t") + "\n")
			}
		}
	}
	return []byte(b.String())
}

// csvStart is how a message in CSV begins, with log_time. A tail may begin within one.
var csvStart = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [^",\n]*,`)

// The columns of a log in CSV, by their order in PostgreSQL's documentation (section 20.8.4).
const (
	csvSeverity = 11
	csvMessage  = 13
	csvDetail   = 14
	csvHint     = 15
)

// fromCSV takes a log in CSV apart. What is no whole message is left out.
func fromCSV(text []byte) (entries []entry) {
	starts := csvStart.FindAllIndex(text, -1)
	for i, at := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		row, err := csv.NewReader(strings.NewReader(string(text[at[0]:end]))).Read()
		if err != nil || len(row) <= csvHint {
			continue
		}
		entries = append(entries, entry{row[csvSeverity], row[csvMessage], row[csvDetail], row[csvHint]})
	}
	return entries
}

// fromJSON takes a log in JSON apart, which has one message in each line.
func fromJSON(text []byte) (entries []entry) {
	for line := range strings.Lines(string(text)) {
		var e entry
		if json.Unmarshal([]byte(line), &e) == nil && e.Severity != "" {
			entries = append(entries, e)
		}
	}
	return entries
}
