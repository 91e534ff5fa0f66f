// Package patroni reads a patroni.yml and writes what it says as a pg.hcl.
//
//	patroni.yml ──parse──> keys in their order ──rules──> a document, secrets, notes
//
// Each key has a rule (keys.go): it writes something into the document, or notes why
// nothing is to be written and what plays its part here. A key without a rule is noted
// as one that this version does not know: nothing is left out without a word.
//
//	import.go    Import: the walk over the file
//	keys.go      the rules, by the path of the key
//	rules.go     what the longer rules do
//	document.go  the pg.hcl
//
// The file's passwords are returned apart (Result.Secrets), and never stand in the
// document. The package has no goroutine and no I/O.
package patroni
