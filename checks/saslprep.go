package checks

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// ErrOddPassword: a password has characters outside ASCII of which not all programs make
// the same.
var ErrOddPassword = errors.New("the password has characters that programs read in different ways; choose one of ASCII letters, digits and punctuation")

// spaces are those outside ASCII, which become a blank (RFC 3454, table C.1.2).
var spaces = &unicode.RangeTable{R16: []unicode.Range16{
	{0x00A0, 0x00A0, 1}, {0x1680, 0x1680, 1}, {0x2000, 0x200B, 1}, {0x202F, 0x202F, 1}, {0x205F, 0x205F, 1}, {0x3000, 0x3000, 1}}, LatinOffset: 1}

// nothing are characters that are left out (table B.1).
var nothing = &unicode.RangeTable{R16: []unicode.Range16{
	{0x00AD, 0x00AD, 1}, {0x034F, 0x034F, 1}, {0x1806, 0x1806, 1}, {0x180B, 0x180D, 1}, {0x200C, 0x200D, 1}, {0x2060, 0x2060, 1},
	{0xFE00, 0xFE0F, 1}, {0xFEFF, 0xFEFF, 1}}, LatinOffset: 1}

// plain are characters that Unicode 3.2 has, which RFC 4013 uses, that are not prohibited, and are
// written from left to right. There are more of them; who needs those has to choose a
// password that is not changed by being prepared.
var plain = &unicode.RangeTable{R16: []unicode.Range16{
	{0x0020, 0x007E, 1}, {0x00A1, 0x0220, 1}, {0x0222, 0x0233, 1}, {0x0250, 0x02AD, 1}, {0x02B0, 0x02EE, 1}, {0x0300, 0x033F, 1}, {0x0342, 0x034E, 1},
	{0x0374, 0x0375, 1}, {0x037A, 0x037A, 1}, {0x037E, 0x037E, 1}, {0x0384, 0x038A, 1}, {0x038C, 0x038C, 1}, {0x038E, 0x03A1, 1}, {0x03A3, 0x03CE, 1},
	{0x03D0, 0x03F6, 1}, {0x0400, 0x0486, 1}, {0x0488, 0x04CE, 1}, {0x04D0, 0x04F5, 1}, {0x04F8, 0x04F9, 1}, {0x1E00, 0x1E9B, 1}, {0x1EA0, 0x1EF9, 1},
	{0x2010, 0x2027, 1}, {0x2030, 0x2052, 1}, {0x20A0, 0x20B1, 1}, {0x2100, 0x213A, 1}, {0x2153, 0x2183, 1}, {0x2190, 0x23CE, 1},
	{0x3001, 0x3029, 1}, {0x3041, 0x3096, 1}, {0x3099, 0x30FF, 1}, {0x4E00, 0x9FA5, 1}, {0xAC00, 0xD7A3, 1}, {0xFB00, 0xFB06, 1}, {0xFF01, 0xFFBE, 1}},
	LatinOffset: 2}

// prepared is a password as PostgreSQL's programs make it ready for SCRAM (SASLprep, RFC
// 4013, pg_saslprep): spaces and what is invisible are replaced, the rest is normalized. What
// is not UTF-8, and what RFC 4013 prohibits, PostgreSQL takes as it is written.
//
// Whether a character is prohibited matters only where the password is changed otherwise; for one
// with characters of which that is not certain it returns ErrOddPassword.
func prepared(password string) (string, error) {
	if !utf8.ValidString(password) || isASCII(password) {
		return password, nil
	}
	mapped := strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(spaces, r):
			return ' '
		case unicode.Is(nothing, r):
			return -1
		}
		return r
	}, password)
	made := norm.NFKC.String(mapped)
	if made == password || made == "" {
		return password, nil
	}
	for _, r := range mapped {
		if !unicode.Is(plain, r) {
			return "", ErrOddPassword
		}
	}
	return made, nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
