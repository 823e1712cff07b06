package main

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// valueDecoder turns JSON text into the values that gojq works on. Numbers keep their text, so that an identifier of
// twenty digits arrives as it was. Repeated keys and invalid UTF-8 are errors: which of two values was meant is not
// ours to guess.
type valueDecoder struct {
	dec *jsontext.Decoder
	src bytes.Buffer
}

func newValueDecoder() *valueDecoder {
	v := &valueDecoder{}
	v.dec = jsontext.NewDecoder(&v.src)
	return v
}

// decode reads a text that holds one value.
func (v *valueDecoder) decode(text []byte) (any, error) {
	v.src = *bytes.NewBuffer(text)
	v.dec.Reset(&v.src)
	value, err := v.value()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("not JSON: no value")
	}
	if err != nil {
		return nil, plainSyntax(err)
	}
	if _, err := v.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not JSON: there is more behind the value")
	}
	return value, nil
}

func (v *valueDecoder) value() (any, error) {
	token, err := v.dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch token.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return token.Bool(), nil
	case '"':
		return token.String(), nil
	case '0':
		return stdjson.Number(token.String()), nil
	case '[':
		return v.array()
	}
	return v.object()
}

func (v *valueDecoder) array() (any, error) {
	list := []any{}
	for v.dec.PeekKind() != ']' {
		value, err := v.value()
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	_, err := v.dec.ReadToken()
	return list, err
}

func (v *valueDecoder) object() (any, error) {
	object := map[string]any{}
	for v.dec.PeekKind() != '}' {
		name, err := v.dec.ReadToken()
		if err != nil {
			return nil, err
		}
		key := name.String()
		if object[key], err = v.value(); err != nil {
			return nil, err
		}
	}
	_, err := v.dec.ReadToken()
	return object, err
}
