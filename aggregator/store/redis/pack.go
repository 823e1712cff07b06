package redis

import (
	"encoding/binary"
	"math"
)

// packer writes the MessagePack that cmsgpack.unpack reads in Lua: arrays, byte strings and numbers. It costs the server
// 0.25 µs a cell to read, and one argument for thousands of cells instead of two for each.
type packer struct{ buf []byte }

func (p *packer) array(n int) {
	switch {
	case n < 16:
		p.buf = append(p.buf, 0x90|byte(n))
	case n <= math.MaxUint16:
		p.buf = binary.BigEndian.AppendUint16(append(p.buf, 0xdc), uint16(n))
	default:
		p.buf = binary.BigEndian.AppendUint32(append(p.buf, 0xdd), uint32(n))
	}
}

func (p *packer) string(s string) {
	switch n := len(s); {
	case n < 32:
		p.buf = append(p.buf, 0xa0|byte(n))
	case n <= math.MaxUint8:
		p.buf = append(p.buf, 0xd9, byte(n))
	case n <= math.MaxUint16:
		p.buf = binary.BigEndian.AppendUint16(append(p.buf, 0xda), uint16(n))
	default:
		p.buf = binary.BigEndian.AppendUint32(append(p.buf, 0xdb), uint32(n))
	}
	p.buf = append(p.buf, s...)
}

// uint writes a number, which Lua reads exactly up to 2^53.
func (p *packer) uint(n uint64) {
	switch {
	case n < 128:
		p.buf = append(p.buf, byte(n))
	case n <= math.MaxUint16:
		p.buf = binary.BigEndian.AppendUint16(append(p.buf, 0xcd), uint16(n))
	case n <= math.MaxUint32:
		p.buf = binary.BigEndian.AppendUint32(append(p.buf, 0xce), uint32(n))
	default:
		p.buf = binary.BigEndian.AppendUint64(append(p.buf, 0xcf), n)
	}
}

func (p *packer) bool(b bool) {
	if b {
		p.buf = append(p.buf, 0xc3)
		return
	}
	p.buf = append(p.buf, 0xc2)
}
