//go:build linux

// Command bundle makes an OCI runtime bundle, for crun or runc, of a service of a
// compose file and the image that it is to run: the container that an engine would make
// of them, as far as privileges go. It is for tests, which can thus run the compose
// file itself where there is no engine. Anything in the file that it does not know is
// an error.
//
// Volumes become directories beside the bundle, named as in the file.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

const usage = `usage: bundle -compose FILE -service NAME -image LAYOUT -platform PLATFORM -o DIR

Makes a bundle of a service in DIR, which must not exist: config.json and rootfs.
`

func main() {
	compose := flag.String("compose", "", "")
	service := flag.String("service", "", "")
	image := flag.String("image", "", "")
	platform := flag.String("platform", "", "")
	dir := flag.String("o", "", "")
	flag.Usage = func() { fmt.Fprint(flag.CommandLine.Output(), usage) }
	flag.Parse()
	if *compose == "" || *service == "" || *image == "" || *platform == "" || *dir == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(*compose, *service, *image, *platform, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "bundle: error:", err)
		os.Exit(1)
	}
}

// write makes the bundle.
func write(compose, service, imageDir, platform, dir string) error {
	s, err := read(compose, service)
	if err != nil {
		return fmt.Errorf("%q: %w", compose, err)
	}
	image, err := find(imageDir, platform)
	if err != nil {
		return fmt.Errorf("%q: %w", imageDir, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	spec, err := convert(s, config.Config, func(volume string) string { return filepath.Join(dir, volume) })
	if err != nil {
		return fmt.Errorf("%q: service %q: %w", compose, service, err)
	}
	text, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := unpack(image, filepath.Join(dir, "rootfs")); err != nil {
		return err
	}
	for _, v := range s.Volumes {
		if v.Type != types.VolumeTypeVolume {
			continue
		}
		if err := volume(filepath.Join(dir, "rootfs", v.Target), filepath.Join(dir, v.Source)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
}

// read reads a service of a compose file, by the code that docker compose has for it.
func read(path, service string) (types.ServiceConfig, error) {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithoutEnvironmentResolution)
	if err != nil {
		return types.ServiceConfig{}, err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return types.ServiceConfig{}, err
	}
	return project.GetService(service)
}

// find finds the image for a platform in a layout with an index of images.
func find(dir, name string) (v1.Image, error) {
	want, err := v1.ParsePlatform(name)
	if err != nil {
		return nil, err
	}
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	manifest, err := outer.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, m := range manifest.Manifests {
		inner, err := outer.ImageIndex(m.Digest)
		if err != nil {
			return nil, err
		}
		images, err := inner.IndexManifest()
		if err != nil {
			return nil, err
		}
		for _, i := range images.Manifests {
			if i.Platform != nil && i.Platform.Equals(*want) {
				return inner.Image(i.Digest)
			}
		}
	}
	return nil, fmt.Errorf("there is no image for %s", name)
}
