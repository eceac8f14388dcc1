// Command image writes doorward's container image for several platforms as an OCI
// image layout: a directory that skopeo, podman and crane read. The same programs,
// version and time give the same bytes.
//
// The image has the two programs and the few files that they need: no shell, no
// package manager, no libraries. It runs as a user of its own, and the daemon's file
// has the two capabilities that it needs, since engines give a user other than root
// none of those that a container may have (see docs/howto/image.md).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const usage = `usage: image -o DIR -version VERSION -epoch SECONDS -licenses DIR PLATFORM=PROGRAMS...

Writes an OCI image layout to DIR, which must not exist. PLATFORM is as in
linux/arm/v7, PROGRAMS a directory with the static programs doorward and doorwardd
for it. The files of the other DIR come along as licences. SECONDS since 1970 are the
time of everything in the image.
`

func main() {
	o := options{}
	flag.Usage = func() { fmt.Fprint(flag.CommandLine.Output(), usage) }
	flag.StringVar(&o.dir, "o", "", "")
	flag.StringVar(&o.version, "version", "", "")
	flag.StringVar(&o.licenses, "licenses", "", "")
	epoch := flag.Int64("epoch", -1, "")
	flag.Parse()
	if o.dir == "" || o.version == "" || o.licenses == "" || *epoch < 0 || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	o.when = time.Unix(*epoch, 0).UTC()
	if err := write(o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image: error:", err)
		os.Exit(1)
	}
}

// options are what all platforms have in common.
type options struct {
	dir, version, licenses string
	when                   time.Time
}

// write writes the layout, with an image for each PLATFORM=PROGRAMS.
func write(o options, platforms []string) error {
	if _, err := os.Lstat(o.dir); err == nil {
		return fmt.Errorf("%q exists: remove it, or name another directory", o.dir)
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arg := range platforms {
		name, programs, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("argument %q: want PLATFORM=PROGRAMS, such as linux/amd64=bin", arg)
		}
		platform, err := v1.ParsePlatform(name)
		if err != nil {
			return fmt.Errorf("platform %q: %w", name, err)
		}
		image, err := build(o, *platform, programs)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		d, err := describe(image, platform)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: described{image, d}})
	}
	index = mutate.Annotations(index, o.annotations()).(v1.ImageIndex)
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	path, err := layout.Write(o.dir, empty.Index)
	if err != nil {
		return err
	}
	// The name in the layout by which tools find the image: oci:DIR:VERSION. It has to
	// serve as a registry's tag, too, in which + is not allowed.
	name := strings.ReplaceAll(o.version, "+", "-")
	return path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name}))
}

// described is an image with a descriptor of its own. The library's would call it an
// artifact with the type of its configuration, which a reader may pass over.
type described struct {
	v1.Image
	descriptor v1.Descriptor
}

// Descriptor is what stands for the image in an index.
func (d described) Descriptor() (*v1.Descriptor, error) { return &d.descriptor, nil }

// describe makes an image's descriptor.
func describe(image v1.Image, platform *v1.Platform) (d v1.Descriptor, err error) {
	d.Platform = platform
	if d.MediaType, err = image.MediaType(); err != nil {
		return d, err
	}
	if d.Size, err = image.Size(); err != nil {
		return d, err
	}
	d.Digest, err = image.Digest()
	return d, err
}

// annotations are the pre-defined ones of the OCI image specification.
func (o options) annotations() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "doorward",
		"org.opencontainers.image.description": "a port-knocking gateway for Linux",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.source":      "https://github.com/doorward/doorward",
		"org.opencontainers.image.version":     o.version,
		"org.opencontainers.image.created":     o.when.Format(time.RFC3339),
	}
}

// build makes the image of one platform.
func build(o options, platform v1.Platform, programs string) (v1.Image, error) {
	daemon, err := program(filepath.Join(programs, "doorwardd"))
	if err != nil {
		return nil, err
	}
	command, err := program(filepath.Join(programs, "doorward"))
	if err != nil {
		return nil, err
	}
	licenses, err := licenses(o.licenses)
	if err != nil {
		return nil, err
	}
	layer, err := pack(append(content(daemon, command), licenses...), o.when)
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.ConfigFile(base, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		Created: v1.Time{Time: o.when},
		RootFS:  v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User:       fmt.Sprintf("%d:%d", daemonID, daemonID),
			Env:        []string{"PATH=/usr/sbin:/usr/bin"},
			Cmd:        []string{"/usr/sbin/doorwardd"},
			WorkingDir: "/",
			Labels:     o.annotations(),
		},
	})
	if err != nil {
		return nil, err
	}
	image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: o.when}, CreatedBy: "build/tools/image"}})
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(image, o.annotations()).(v1.Image), nil
}

// program reads a program. One that needs an interpreter would not run: there is
// none in the image.
func program(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	static, err := isStatic(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	if !static {
		return nil, errors.New(path + " is linked dynamically: build it with CGO_ENABLED=0")
	}
	return text, nil
}
