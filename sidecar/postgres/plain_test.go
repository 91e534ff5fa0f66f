package postgres

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPlainWords: damage is recognised whatever language the server speaks and wherever it
// logs to, and where its log cannot be read the operator's choice stands beside ours.
func TestPlainWords(t *testing.T) {
	places := testDir(t)
	german := "C"
	if out, err := exec.Command("localedef", "-i", "de_DE", "-f", "UTF-8", filepath.Join(places, "de_DE.UTF-8")).CombinedOutput(); err == nil {
		german = "de_DE.UTF-8"
	} else {
		t.Logf("without a German locale: %v: %s", err, out)
	}
	m := newPrimary(t, "n1", func(o *Options) { o.WAL.Environment = []string{"LOCPATH=" + places} })
	segment := m.data("pg_wal", m.sql("select pg_walfile_name(pg_current_wal_lsn())"))
	must(t, m.Stop(soon(t), false))
	log, err := os.ReadFile(segment)
	must(t, err)
	must(t, os.WriteFile(segment, make([]byte, len(log)), 0o600))
	for name, text := range map[string]string{
		"another language":        "lc_messages = '" + german + "'\n",
		"syslog":                  "log_destination = 'syslog'\n",
		"both":                    "log_destination = 'syslog'\nlc_messages = '" + german + "'\n",
		"collector, CSV, German":  "logging_collector = on\nlog_destination = 'csvlog'\nlc_messages = '" + german + "'\n",
		"collector, JSON, German": "logging_collector = on\nlog_destination = 'jsonlog'\nlc_messages = '" + german + "'\n",
		"nothing below PANIC":     "log_min_messages = panic\n",
		"verbose":                 "log_error_verbosity = verbose\n",
	} {
		if strings.Contains(text, "jsonlog") && m.version < 15 {
			continue
		}
		for _, file := range []string{"postgresql.conf", autoFile} {
			t.Run(name+" in "+file, func(t *testing.T) {
				was, err := os.ReadFile(m.data(file))
				must(t, err)
				defer func() { must(t, os.WriteFile(m.data(file), was, 0o600)) }()
				must(t, os.WriteFile(m.data(file), append(append([]byte{}, was...), "\n"+text...), 0o600))
				words := ""
				for range 2 { // the second knows what the first could not tell
					must(t, m.Start(soon(t), StartOptions{Primary: true}))
					poll(t, "the end of a start on damaged data", func() bool { return errors.Is(m.guard.ended(), os.ErrProcessDone) })
					if words = m.LastWords(); strings.Contains(words, "could not locate a valid checkpoint record") {
						break
					}
					m.SpeakPlainly()
				}
				if strings.Contains(text, "de_DE") && !m.spoke(t, "konnte keinen gültigen Checkpoint-Datensatz ") {
					t.Error("no start spoke German: the test shows nothing")
				}
				if !strings.Contains(words, "could not locate a valid checkpoint record") {
					t.Errorf("the server's last words: %q", words)
				}
			})
		}
	}
	must(t, os.WriteFile(segment, log, 0o600))

	// A start that succeeds logs where its operator said, and here as well.
	m.appendConf(t, "log_destination = 'syslog'\n")
	must(t, m.Start(soon(t), StartOptions{Primary: true}))
	m.up()
	if got := m.sql("show log_destination"); got != "syslog,stderr" {
		t.Errorf("log_destination is %s", got)
	}
}

func (m *member) appendConf(t *testing.T, text string) {
	t.Helper()
	f, err := os.OpenFile(m.data("postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	_, err = f.WriteString("\n" + text)
	must(t, errors.Join(err, f.Close()))
}

// spoke reports whether a log of the server, whatever its format, has the words.
func (m *member) spoke(t *testing.T, words string) bool {
	t.Helper()
	collected, err := filepath.Glob(m.data("log", "*"))
	must(t, err)
	for _, path := range append(collected, m.logFile()) {
		content, err := os.ReadFile(path)
		must(t, err)
		if strings.Contains(string(content), words) {
			return true
		}
	}
	return false
}

// ended is os.ErrProcessDone when the server has ended.
func (g *testGuard) ended() error {
	select {
	case <-g.done:
		return os.ErrProcessDone
	default:
		return nil
	}
}
