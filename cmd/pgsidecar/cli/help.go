package cli

import (
	"cmp"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is how wide help is, in columns.
const helpWidth = 80

// topics are pages about more than one command: `pgsidecar help TOPIC`. They are
// Markdown, so that they can be read in the repository as well.
//
//go:embed help/*.md
var topics embed.FS

// topicOrder is the order in which a new user reads the topics.
var topicOrder = []string{"concepts", "guarantees", "operate", "patroni", "proxy", "tls", "nomad", "backup", "sites", "upgrade", "errors", "connection"}

// topicNames are the names of all topics.
func topicNames() []string {
	files, err := fs.ReadDir(topics, "help")
	if err != nil {
		panic(err) // they are in the program
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".md"))
	}
	place := func(name string) int {
		if i := slices.Index(topicOrder, name); i >= 0 {
			return i
		}
		return len(topicOrder)
	}
	slices.SortStableFunc(names, func(x, y string) int { return place(x) - place(y) })
	return names
}

// writeTopic writes a topic. The one on connections lists the flags, which the
// help of each command leaves out.
func writeTopic(w io.Writer, root *cobra.Command, name string) error {
	text, err := topics.ReadFile("help/" + name + ".md")
	if err != nil {
		return usage("no topic %q; there are %s", name, strings.Join(topicNames(), ", "))
	}
	var b strings.Builder
	b.Write(text)
	if name == "connection" {
		var all cobra.Command
		new(clientFlags).add(&all)
		b.WriteString("\n## Flags\n\n" + all.Flags().FlagUsagesWrapped(helpWidth))
	}
	if cmd, _, err := root.Find([]string{name}); err == nil && cmd != root {
		fmt.Fprintf(&b, "\nThe command of this name: pgsidecar %s --help\n", name)
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// newHelpCommand returns `help`, for commands and topics.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND | TOPIC]",
		Short: "Explain a command or a topic",
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			if len(args) == 1 && slices.Contains(topicNames(), args[0]) {
				return writeTopic(cmd.OutOrStdout(), root, args[0])
			}
			of, left, err := root.Find(args)
			if err != nil || len(left) > 0 && of == root {
				return needCommand(root, args)
			}
			return writeHelp(cmd.OutOrStdout(), of)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var words []string
			of, left, err := cmd.Root().Find(args)
			if err != nil || len(left) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			for _, sub := range of.Commands() {
				if sub.IsAvailableCommand() {
					words = append(words, sub.Name()+"\t"+sub.Short)
				}
			}
			if len(args) == 0 {
				words = append(words, topicNames()...)
			}
			return words, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// writeHelp writes the help of a command: what it does, how it is typed, and its
// own flags. Those by which it finds the cluster are on a page of their own.
func writeHelp(w io.Writer, cmd *cobra.Command) error {
	if !cmd.HasParent() {
		return writeRootHelp(w, cmd)
	}
	var b strings.Builder
	b.WriteString(wrap(cmp.Or(cmd.Long, cmd.Short), helpWidth))
	fmt.Fprintf(&b, "\nUsage: %s\n", cmd.UseLine())
	if cmd.Example != "" {
		b.WriteString("\nExamples:\n" + cmd.Example + "\n")
	}
	if cmd.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, "  %-14s%s", sub.Name(), hang(sub.Short, helpWidth, 16))
			}
		}
	}
	cmd.InitDefaultHelpFlag()
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	connects := false
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if _, is := f.Annotations[connectionFlag]; is {
			connects = connects || !f.Hidden
			return
		}
		own.AddFlag(f)
	})
	b.WriteString("\nFlags:\n" + own.FlagUsagesWrapped(helpWidth))
	if connects {
		b.WriteString("\nConnection flags (--api, --config, --consul, ...): pgsidecar help connection\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wrap fills paragraphs to a width. Lines that are indented stay as they are.
func wrap(text string, width int) string {
	var b strings.Builder
	var paragraph []string
	flush := func() {
		if len(paragraph) > 0 {
			b.WriteString(hang(strings.Join(paragraph, " "), width, 0))
			paragraph = nil
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, " ") {
			flush()
			b.WriteString(line + "\n")
			continue
		}
		paragraph = append(paragraph, line)
	}
	flush()
	return b.String()
}

// hang fills one paragraph, of which all lines but the first are indented.
func hang(text string, width, indent int) string {
	var b strings.Builder
	column := indent
	for i, word := range strings.Fields(text) {
		switch {
		case i > 0 && column+1+len(word) > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		case i > 0:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String() + "\n"
}
