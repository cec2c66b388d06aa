package manifest

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// value is a node of the file, never an alias, and its place for messages: where it is
// written or, if an alias stands for it, the place of the alias. Without a node it is a
// value that the file does not have.
type value struct {
	node         *yaml.Node
	line, column int
	aliased      bool
}

func newValue(n *yaml.Node) value { return value{}.part(n) }

// part returns the value of n, which is in v.
func (v value) part(n *yaml.Node) value {
	p := value{node: n, line: n.Line, column: n.Column, aliased: v.aliased}
	if v.aliased {
		p.line, p.column = v.line, v.column
	}
	if n.Kind == yaml.AliasNode {
		p.node, p.aliased = n.Alias, true
	}
	return p
}

func (v value) given() bool { return v.node != nil }

// hasKey reports whether v is a mapping with a key.
func (v value) hasKey(key string) bool {
	if v.node.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i < len(v.node.Content); i += 2 {
		if v.part(v.node.Content[i]).node.Value == key {
			return true
		}
	}
	return false
}

func (v value) isText() bool {
	// YAML 1.2 has no dates: an unquoted one is text.
	tag := v.node.ShortTag()
	return v.node.Kind == yaml.ScalarNode && (tag == "!!str" || tag == "!!timestamp")
}

// isCounting reports whether v is a decimal number from 1. 0700 and 0x50 are refused,
// because people read them in different ways.
func (v value) isCounting() bool {
	text := v.node.Value
	return v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!int" &&
		strings.Trim(text, "0123456789") == "" && strings.TrimLeft(text, "0") == text
}

// needsQuotes reports whether v would be text if it were in quotes.
func (v value) needsQuotes() bool {
	tag := v.node.ShortTag()
	return v.node.Kind == yaml.ScalarNode && (tag == "!!int" || tag == "!!float" || tag == "!!bool")
}

// boolean returns the value of true or false, as YAML 1.2 spells them.
func (v value) boolean() (is, ok bool) {
	if v.node.Kind != yaml.ScalarNode || v.node.ShortTag() != "!!bool" {
		return false, false
	}
	lower := strings.ToLower(v.node.Value)
	return lower == "true", lower == "true" || lower == "false"
}

// kind says what the value is, for messages.
func (v value) kind() string {
	switch v.node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	text := strconv.Quote(clip(v.node.Value))
	switch tag := v.node.ShortTag(); tag {
	case "!!str", "!!timestamp":
		return "the text " + text
	case "!!int", "!!float":
		return "the number " + strings.Trim(text, `"`)
	case "!!bool":
		return strings.Trim(text, `"`)
	case "!!null":
		return "nothing"
	default:
		return "a value of type " + strconv.Quote(clip(tag))
	}
}

// clip shortens text of the file for a message.
func clip(s string) string {
	const most = 40
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
