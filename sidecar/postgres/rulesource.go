package postgres

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// usersHead comes before the user's lines in our files.
const usersHead = "# What follows is the user's.\n"

// includeRule is a line of pg_hba.conf or pg_ident.conf that includes others, from
// PostgreSQL 16 on (hba.c, tokenize_auth_file): of two fields.
var includeRule = regexp.MustCompile(`^\s*(include|include_if_exists|include_dir)[\s,]+("[^"]+"|[^\s,"#]+)\s*(?:#.*)?$`)

// readRules reads the configured lines, or else those of the data directory, and puts in
// their places what they name of other files: the server reads a copy, which no edit of
// those changes untried.
func (s *Server) readRules(f ruleFile, configured []string) (userConf, error) {
	syntax := syntax{unquote: unquoteRule, expand: (*userConf).expandRule}
	if s.version >= 16 {
		syntax.include = includeRule
	}
	if configured == nil {
		return s.readUsers(f.name, syntax)
	}
	c := userConf{files: s.files, syntax: syntax, dir: s.o.DataDir}
	for _, line := range configured {
		if err := c.addText("", line+"\n", 0); err != nil {
			return c, fmt.Errorf("%s %q: %w", f.of, line, errors.Unwrap(err))
		}
	}
	return c, nil
}

func unquoteRule(name string) string { return strings.ReplaceAll(name, `"`, "") }

// expandRule puts the words of the files that a line names by an @ in their places. As
// PostgreSQL does, it takes a word for such only if it does not begin with a quote.
func (c *userConf) expandRule(name, line string) (string, error) {
	if !strings.Contains(line, "@") {
		return line, nil
	}
	return c.expandWords(name, line, 0)
}

func (c *userConf) expandWords(name, line string, depth int) (string, error) {
	var b strings.Builder
	for rest := line; rest != ""; {
		gap := rest[:len(rest)-len(strings.TrimLeft(rest, " \t\r\n,"))]
		b.WriteString(gap)
		rest = rest[len(gap):]
		if strings.HasPrefix(rest, "#") {
			b.WriteString(rest)
			break
		}
		word := firstWord(rest)
		rest = rest[len(word):]
		if len(word) > 1 && word[0] == '@' {
			words, err := c.wordsOf(c.named(name, unquoteRule(word[1:])), depth)
			if err != nil {
				return "", err
			}
			word = words
		}
		b.WriteString(word)
	}
	return b.String(), nil
}

// firstWord is what PostgreSQL takes for one: up to a blank or comma, or to a comment,
// outside of quotes.
func firstWord(text string) string {
	quoted := false
	for i, r := range text {
		switch {
		case r == '"':
			quoted = !quoted
		case !quoted && strings.ContainsRune(" \t\r\n,#", r):
			return text[:i]
		}
	}
	return text
}

// wordsOf reads a list of words from a file.
func (c *userConf) wordsOf(name string, depth int) (string, error) {
	if depth > maxInclude {
		return "", fmt.Errorf("%w: %s: files include one another more than %d deep", ErrSetting, name, maxInclude)
	}
	content, err := c.files.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrSetting, err)
	}
	var words []string
	for line := range strings.Lines(string(content)) {
		line, err := c.expandWords(name, line, depth+1)
		if err != nil {
			return "", err
		}
		for line != "" {
			line = strings.TrimLeft(line, " \t\r\n,")
			word := firstWord(line)
			if word == "" { // the end, or a comment
				break
			}
			words = append(words, word)
			line = line[len(word):]
		}
	}
	if len(words) == 0 {
		return `""`, nil // nobody's name
	}
	return strings.Join(words, ","), nil
}
