package main

import "strings"

// param is one parameter of a kernel command line.
type param struct {
	key, value string
	hasValue   bool
}

// String is p as it could stand on a command line.
func (p param) String() string {
	if p.hasValue {
		return p.key + "=" + p.value
	}
	return p.key
}

// parseCommandLine splits a kernel command line as the kernel does: next_arg in
// lib/cmdline.c. Double quotes keep white space together, around a value or
// around a whole parameter, and cannot be escaped. What follows "--" is for init
// and not for us. Keys may repeat, and stay in order.
func parseCommandLine(line string) []param {
	var params []param
	rest := strings.TrimLeftFunc(line, isSpace)
	for rest != "" {
		var p param
		p, rest = nextParam(rest)
		if p.key == "--" && !p.hasValue {
			break
		}
		params = append(params, p)
	}
	return params
}

func nextParam(s string) (p param, rest string) {
	quoted := s[0] == '"'
	if quoted {
		s = s[1:]
	}
	inQuote := quoted
	equals, end := 0, len(s)
	for i, c := range []byte(s) {
		if !inQuote && isSpace(rune(c)) {
			end = i
			break
		}
		if c == '=' && equals == 0 {
			equals = i
		}
		if c == '"' {
			inQuote = !inQuote
		}
	}
	text := s[:end]
	if quoted {
		text = strings.TrimSuffix(text, `"`)
	}
	p.key = text
	// A '=' in front of everything is part of the key, as in the kernel.
	if equals > 0 && equals < len(text) {
		p.key, p.value, p.hasValue = text[:equals], text[equals+1:], true
		if value, ok := strings.CutPrefix(p.value, `"`); ok {
			p.value = value
			if !quoted {
				p.value = strings.TrimSuffix(value, `"`)
			}
		}
	}
	return p, strings.TrimLeftFunc(s[end:], isSpace)
}

// isSpace is the kernel's isspace for ASCII.
func isSpace(r rune) bool {
	return r == ' ' || '\t' <= r && r <= '\r'
}
