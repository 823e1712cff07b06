// Package yamlfile reads the YAML files that operators write. It says all that is wrong with one at once, in words of ours: file,
// line and reason of each fault.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// File is a file that is being read.
type File struct {
	// Root is the value of the file's one document; nil where there is none, or it isn't YAML.
	Root *yaml.Node

	name   string
	data   []byte
	faults []fault
}

type fault struct {
	line   int
	reason string
}

// Parse reads the data of the file with a name. More than one document is a fault, none is not.
func Parse(name string, data []byte) *File {
	f := &File{name: name, data: data}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return f
	} else if err != nil {
		f.addYAML(err, nil)
		for i := range f.faults {
			f.faults[i].reason += ": correct the YAML here or just before, or restore the file"
		}
		return f
	}
	f.Root = doc.Content[0]
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		f.Fault(1, "the file has more than one document: leave out the lines `---`")
	}
	return f
}

// Decode reads the document into a struct. A field that the struct does not have is a fault, as are a value of another kind and
// a field that is given twice; the struct then has what could be read.
func (f *File) Decode(into any) {
	if f.Root == nil {
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(f.data))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		f.addYAML(err, reflect.TypeOf(into).Elem())
	}
}

// Fault adds what is wrong with a line.
func (f *File) Fault(line int, format string, args ...any) {
	f.faults = append(f.faults, fault{line, fmt.Sprintf(format, args...)})
}

// Err has a line for each fault, in their order in the file. It is nil where there are none.
func (f *File) Err() error {
	slices.SortStableFunc(f.faults, func(a, b fault) int { return a.line - b.line })
	var errs []error
	for _, fault := range f.faults {
		errs = append(errs, fmt.Errorf("%s:%d: %s", f.name, fault.line, fault.reason))
	}
	return errors.Join(errs...)
}

var (
	atLine       = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	unknownField = regexp.MustCompile(`^field (.+) not found in type (\S+)$`)
	repeatedKey  = regexp.MustCompile(`^mapping key "(.*)" already defined at line (\d+)$`)
	wrongKind    = regexp.MustCompile("^cannot unmarshal !!(?:\\S+)(?: `.*`)? into (.*)$")
)

// addYAML adds what the decoder says. top is what it read into, nil where that doesn't matter.
func (f *File) addYAML(err error, top reflect.Type) {
	messages := []string{err.Error()}
	if several, ok := errors.AsType[*yaml.TypeError](err); ok {
		messages = several.Errors
	}
	for _, message := range messages {
		line, reason := 1, strings.TrimPrefix(message, "yaml: ")
		if m := atLine.FindStringSubmatch(message); m != nil {
			line, _ = strconv.Atoi(m[1]) // digits
			reason = m[2]
		}
		f.Fault(line, "%s", explain(reason, top))
	}
}

func explain(reason string, top reflect.Type) string {
	if m := unknownField.FindStringSubmatch(reason); m != nil {
		if m[2] == top.String() {
			return fmt.Sprintf("unknown field %q: the file may have %s", m[1], fields(top))
		}
		return fmt.Sprintf("unknown field %q", m[1])
	}
	if m := repeatedKey.FindStringSubmatch(reason); m != nil {
		return fmt.Sprintf("%s is given twice, see line %s", m[1], m[2])
	}
	if m := wrongKind.FindStringSubmatch(reason); m != nil {
		switch {
		case strings.HasPrefix(m[1], "[]"):
			return "this must be a list"
		case strings.Contains(m[1], "."):
			return "this must be fields with values"
		}
		return "this must be one value"
	}
	return reason
}

// fields lists those of the file.
func fields(top reflect.Type) string {
	var names []string
	for field := range top.Fields() {
		names = append(names, field.Tag.Get("yaml"))
	}
	return strings.Join(names, ", ")
}

// Lookup returns the value of a key of a mapping, nil where there is none.
func Lookup(node *yaml.Node, key string) *yaml.Node {
	node = resolve(node)
	for i := 0; node != nil && node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return resolve(node.Content[i+1])
		}
	}
	return nil
}

// resolve returns what an alias stands for.
func resolve(node *yaml.Node) *yaml.Node {
	if node != nil && node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// Line is where the value of a key of a mapping is, or what should have it.
func Line(node *yaml.Node, key string) int {
	if value := Lookup(node, key); value != nil {
		return value.Line
	}
	if node != nil {
		return node.Line
	}
	return 1
}
