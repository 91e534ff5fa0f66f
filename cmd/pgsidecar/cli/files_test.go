package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/install"
)

// TestFiles: each file is printed, alone and whole.
func TestFiles(t *testing.T) {
	for name, part := range map[string]string{
		"systemd": "Type=notify", "docker": "ENTRYPOINT", "grafana": `"panels"`, "alerts": "- alert: PgsidecarNoPrimary",
		"policy": `key_prefix "pgsidecar/pg/" { policy = "write" }`,
	} {
		code, stdout, stderr := command(t, "files", name)
		if code != ExitOK || stderr != "" || !strings.Contains(stdout, part) || !strings.HasSuffix(stdout, "\n") {
			t.Errorf("files %s: exit status %d, stderr %q, stdout %.100q", name, code, stderr, stdout)
		}
	}
	_, stdout, _ := command(t, "files", "policy", "-cluster", "main", "-prefix", "ha", "-service", "postgres")
	for _, part := range []string{`key_prefix "ha/main/"`, `service "postgres"`, "pgsidecar-main"} {
		if !strings.Contains(stdout, part) {
			t.Errorf("no %s in the policy of another cluster", part)
		}
	}
	if strings.Contains(stdout, `"pg"`) || strings.Contains(stdout, "pgsidecar/pg") {
		t.Errorf("the policy of another cluster names pg:\n%s", stdout)
	}
	if code, _, stderr := command(t, "files", "sistemd"); code != ExitUsage || !strings.Contains(stderr, `did you mean "systemd"?`) {
		t.Errorf("a typing error: exit status %d, %s", code, stderr)
	}
}

// defaults returns the configuration of a member that sets only what it must.
func defaults(t *testing.T) *config.Config {
	t.Helper()
	t.Setenv("TEST_PASSWORD", "hunter2")
	path := filepath.Join(t.TempDir(), "pg.hcl")
	text := `member = "n1"
postgres {
  listen = "127.0.0.1:5432"
  superuser { password = env("TEST_PASSWORD") }
  replication { password = env("TEST_PASSWORD") }
}
api { listen = "127.0.0.1:8008" }
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path, config.OSEnvironment())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSystemdUnit: its times fit the defaults that they depend on, its command
// is one of ours, each setting has a reason, and systemd understands it.
func TestSystemdUnit(t *testing.T) {
	settings := map[string]string{}
	explained := false
	for line := range strings.Lines(install.SystemdUnit) {
		line = strings.TrimSpace(line)
		key, value, is := strings.Cut(line, "=")
		switch {
		case strings.HasPrefix(line, "#"):
			explained = true
		case line == "":
			explained = false
		case is:
			settings[key] = value
			switch key {
			case "Description", "Documentation", "ExecStart", "ExecReload", "WantedBy":
			default:
				if !explained {
					t.Errorf("%s has no reason above it", line)
				}
			}
		}
	}
	for key, want := range map[string]string{"Type": "notify", "KillMode": "process", "Restart": "always", "LimitMEMLOCK": "infinity"} {
		if settings[key] != want {
			t.Errorf("%s=%s, want %s", key, settings[key], want)
		}
	}
	c := defaults(t)
	duration := func(key string) time.Duration {
		text := settings[key]
		if !strings.HasSuffix(text, "s") {
			text += "s"
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Errorf("%s=%s: %v", key, settings[key], err)
		}
		return d
	}
	if d := duration("TimeoutStopSec"); d < c.Failover.HandoverTimeout+c.Postgres.StopTimeout+15*time.Second {
		t.Errorf("TimeoutStopSec is %s: too short for a handover (%s) and a shutdown (%s)", d, c.Failover.HandoverTimeout, c.Postgres.StopTimeout)
	}
	if d := duration("RestartSec"); d > c.Failover.FailureTimeout/2 || d > c.Failover.Lease/4 {
		t.Errorf("RestartSec is %s: too near to the failure timeout (%s) or the lease (%s)", d, c.Failover.FailureTimeout, c.Failover.Lease)
	}
	runs(t, strings.Fields(settings["ExecStart"]))

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not on PATH")
	}
	// It also looks whether the programs are there.
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "pgsidecar.service")
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(install.SystemdUnit, "/usr/local/bin/pgsidecar", exe)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput()
	if err != nil || strings.Contains(string(out), "pgsidecar.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// runs checks that a command line of a file is one that this program takes.
func runs(t *testing.T, words []string) {
	t.Helper()
	cmd, rest, err := newRootCommand(&Process{Getenv: os.Getenv}).Find(twoDashes(words[1:]))
	if err != nil {
		t.Errorf("%q: %v", words, err)
		return
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("%q: %v", words, err)
	}
}

// TestDockerfile: the commands in it are ours, and its stop is as long as
// systemd's. (Whether it builds needs a Docker daemon and a network.)
func TestDockerfile(t *testing.T) {
	lists := regexp.MustCompile(`(?m)^\s*(?:ENTRYPOINT|CMD) \[(.*)\]$`).FindAllStringSubmatch(install.Dockerfile, -1)
	if len(lists) != 3 {
		t.Fatalf("%d commands, not HEALTHCHECK, ENTRYPOINT and CMD", len(lists))
	}
	word := regexp.MustCompile(`"([^"]+)"`)
	words := func(list string) (found []string) {
		for _, m := range word.FindAllStringSubmatch(list, -1) {
			found = append(found, m[1])
		}
		return found
	}
	runs(t, words(lists[0][1]))
	runs(t, append(words(lists[1][1]), words(lists[2][1])...))
	if !strings.Contains(install.Dockerfile, "--stop-timeout 60 ") || !strings.Contains(install.SystemdUnit, "\nTimeoutStopSec=60\n") {
		t.Error("Docker and systemd do not give a stop the same time")
	}
}

// TestNeedrestart: the file is Perl that needrestart can read, and sets that members are not
// restarted: needrestart takes the first pattern that fits a service's name, and 0 is no.
func TestNeedrestart(t *testing.T) {
	perl, err := exec.LookPath("perl")
	if err != nil {
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), "pgsidecar.conf")
	if err := os.WriteFile(file, []byte(install.Needrestart), 0o600); err != nil {
		t.Fatal(err)
	}
	// As needrestart does with its main file and those of conf.d.
	script := `use strict; our %nrconf = (override_rc => { qr(^dbus) => 0 }); my $text = do { local (@ARGV, $/) = $ARGV[0]; <> };
		eval "$text"; die $@ if $@;
		for my $rc (qw(pgsidecar.service pgsidecar-proxy.service nginx.service)) {
			my @found = grep { $rc =~ /$_/ } keys %{$nrconf{override_rc}};
			print "$rc ", (@found ? $nrconf{override_rc}{$found[0]} : "restarts"), "\n";
		}`
	out, err := exec.Command(perl, "-e", script, file).CombinedOutput()
	if want := "pgsidecar.service 0\npgsidecar-proxy.service 0\nnginx.service restarts\n"; err != nil || string(out) != want {
		t.Errorf("%v\n%swant\n%s", err, out, want)
	}
}
