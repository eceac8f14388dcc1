//go:build linux

package presence

import (
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// maxArchive limits how much text is read from a compressed file: a week of four lines a
// second comes to less, and a slow machine inflates it within one look for presence.
const maxArchive = 256 << 20

// maxWindow is how far back zstd may refer, which is what it costs in memory: as
// much as RFC 8878, 3.1.1.1.2, recommends every reader to support, and more than
// `zstd -19` uses.
const maxWindow = 8 << 20

// archive is a way to compress files. Xz is not supported: github.com/ulikunitz/xz
// allocates the dictionary that a file asks for, up to 4 GiB, whatever it is told.
type archive struct {
	ending string
	tester string // tests whether a file is damaged
	slow   int64  // how many times slower it is than gzip
	open   func(io.Reader) (text io.Reader, end func(), err error)
}

var archives = []archive{
	{".gz", "gzip -t", 1, func(r io.Reader) (io.Reader, func(), error) {
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	}},
	{".zst", "zstd -t", 1, func(r io.Reader) (io.Reader, func(), error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}},
	{".bz2", "bzip2 -t", 8, func(r io.Reader) (io.Reader, func(), error) { return bzip2.NewReader(r), func() {}, nil }},
}

// archiveOf is how a file of this name is compressed, nil for a plain one.
func archiveOf(name string) *archive {
	for i := range archives {
		if strings.HasSuffix(name, archives[i].ending) {
			return &archives[i]
		}
	}
	return nil
}

// plainName is the name without the ending of a compressed file.
func plainName(name string) string {
	if a := archiveOf(name); a != nil {
		return strings.TrimSuffix(name, a.ending)
	}
	return name
}

// unzip reads a compressed file, up to l.most bytes of text, or fewer where that takes
// longer. It never grows, so its last line counts even without a newline, unless the text
// was cut.
//
// What comes before damage counts. The place of the damage, or where the text was cut, is
// remembered like the end of a whole file, so that not every check inflates the same data
// again: a file that is still being written changes. What the disk could not read is
// retried; only that is an error here.
func (l *logFile) unzip(a *archive) error {
	most := l.most / a.slow
	text := &io.LimitedReader{N: most + 1}
	var rest []byte
	z, end, err := a.open(io.NewSectionReader(l, 0, l.size))
	if err == nil {
		defer end()
		text.R = z
		_, rest, err = linesForward(text, false, l.take)
	}
	var disk *fs.PathError
	switch {
	case l.ctx.Err() != nil:
		return l.ctx.Err()
	case errors.As(err, &disk):
		return err
	case err != nil:
		l.pr.broken = fmt.Sprintf("%v after %d bytes of text: logins after that do not count; "+
			"`%s` tells whether the file is damaged", err, most+1-text.N, a.tester)
	case text.N == 0:
		l.pr.cut = most
	case text.N > most:
		l.pr.empty = true
	case len(rest) > 0:
		l.take(rest)
	}
	return nil
}
