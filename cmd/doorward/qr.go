package main

import (
	"fmt"
	"strings"

	"rsc.io/qr"
)

// drawQR draws a text as a QR code, two rows in a line and with the light margin of four
// around it that scanners want (ISO/IEC 18004): on a terminal dark on light, whatever its
// colours.
func drawQR(text string, terminal bool) (string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("draw the QR code: %w", err)
	}
	const margin = 4
	begin, end := "", "\n"
	if terminal {
		begin, end = "\x1b[30;107m", "\x1b[0m\n" // black on white (ECMA-48, SGR)
	}
	var b strings.Builder
	for y := -margin; y < code.Size+margin; y += 2 {
		b.WriteString(begin)
		for x := -margin; x < code.Size+margin; x++ {
			upper, lower := code.Black(x, y), code.Black(x, y+1)
			switch {
			case upper && lower:
				b.WriteRune('█')
			case upper:
				b.WriteRune('▀')
			case lower:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString(end)
	}
	return b.String(), nil
}
