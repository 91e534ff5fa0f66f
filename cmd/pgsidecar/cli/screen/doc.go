// Package screen is what people read: it turns a member's answer into text. It asks
// nobody, and decides nothing; commands (package cli) get the values and print the text.
//
// A warning, and whatever else a person should see first, is a paragraph of its own with
// the command that helps. A time has its zone, a number its unit.
package screen
