package jsonshape_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/jsonshape"
)

func TestBracketsOutsideOfStringsCount(t *testing.T) {
	for text, want := range map[string]jsonshape.Shape{
		``:                       {},
		`7`:                      {},
		`{}`:                     {Depth: 1, Objects: 1},
		`[{"a":{}},{}]`:          {Depth: 3, Objects: 3},
		`{"[[[":"]{\"[","b":[]}`: {Depth: 2, Objects: 1},
		`{"a":"\\"}[[`:           {Depth: 2, Objects: 1},
		`"[[[[`:                  {},
		`]]]][`:                  {},
	} {
		require.Equal(t, want, jsonshape.Of([]byte(text)), text)
	}
}
