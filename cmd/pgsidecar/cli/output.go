package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// output is how a command shows what it shows: for people, or for programs.
type output string

const (
	asTable output = "table"
	asJSON  output = "json"
	asYAML  output = "yaml"
)

// flag adds --output, and --json, which came first, for those who type it.
func (o *output) flag(cmd *cobra.Command) {
	o.only(cmd)
	f := cmd.Flags().VarPF((*jsonAlias)(o), "json", "", "print JSON")
	f.NoOptDefVal, f.Hidden = "true", true
}

// only adds --output to a command that has another --json.
func (o *output) only(cmd *cobra.Command) {
	*o = asTable
	cmd.Flags().Var(o, "output", "`format`: table, json or yaml")
	words := cobra.FixedCompletions([]string{string(asTable), string(asJSON), string(asYAML)}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("output", words); err != nil {
		panic(err) // the flag is defined above
	}
}

func (o *output) String() string { return string(*o) }

// Type is what help shows where the flag's text names nothing.
func (o *output) Type() string { return "format" }

func (o *output) Set(word string) error {
	switch format := output(word); format {
	case asTable, asJSON, asYAML:
		*o = format
		return nil
	}
	return errors.New("expected table, json or yaml")
}

// jsonAlias is the flag --json of an output.
type jsonAlias output

func (o *jsonAlias) String() string   { return "false" }
func (o *jsonAlias) Type() string     { return "bool" }
func (o *jsonAlias) IsBoolFlag() bool { return true }

func (o *jsonAlias) Set(word string) error {
	switch word {
	case "true":
		*o = jsonAlias(asJSON)
	case "false":
	default:
		return errors.New("expected true or false")
	}
	return nil
}

// forPeople reports whether the output is not for programs.
func (o output) forPeople() bool { return o == asTable }

// write writes a value for programs. YAML has the same keys as JSON, in the same
// order.
func (o output) write(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", o, err)
	}
	if o == asYAML {
		if text, err = toYAML(text); err != nil {
			return err
		}
	}
	_, err = w.Write(append(bytes.TrimSuffix(text, []byte("\n")), '\n'))
	return err
}

// toYAML turns JSON, which is YAML of one style, into the style that people read.
func toYAML(text []byte) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return nil, fmt.Errorf("write yaml: %w", err)
	}
	plain(&node)
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(&node), e.Close()); err != nil {
		return nil, fmt.Errorf("write yaml: %w", err)
	}
	return b.Bytes(), nil
}

// plain takes JSON's braces and quotes away. The tag of a text stays, so that
// "true" is written with quotes and never read as a truth.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, sub := range n.Content {
		plain(sub)
	}
}
