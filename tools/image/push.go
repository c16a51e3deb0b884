package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// push copies a layout to a registry, with the credentials that `docker login` has left, and
// prints the image's name with its digest. The tag is given last, when all that it leads to
// is there, and is never taken from another image.
func push(ctx context.Context, out io.Writer, dir, to string) error {
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return err
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		return err
	}
	image, referrers, err := split(manifest.Manifests)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	tag, err := target(image, to)
	if err != nil {
		return err
	}
	p := pusher{root: root, repository: tag.Context(), options: []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
	}}
	if err := p.free(tag, image.Digest); err != nil {
		return err
	}
	if err := p.push(image, referrers, tag); err != nil {
		return fmt.Errorf("%s: %w", tag, err)
	}
	fmt.Fprintln(out, p.repository.Digest(image.Digest.String()))
	return nil
}

// split finds the image among what a layout lists: it has a name. The others refer to it.
func split(all []v1.Descriptor) (image v1.Descriptor, referrers []v1.Descriptor, err error) {
	var named []v1.Descriptor
	for _, d := range all {
		if d.Annotations[refName] == "" {
			referrers = append(referrers, d)
		} else {
			named = append(named, d)
		}
	}
	if len(named) != 1 {
		return v1.Descriptor{}, nil, fmt.Errorf("the layout names %d images; it has to be 1", len(named))
	}
	return named[0], referrers, nil
}

// target is the image's name, in another repository if to says one.
func target(image v1.Descriptor, to string) (name.Tag, error) {
	tag, err := name.NewTag(image.Annotations[refName], name.StrictValidation)
	if err != nil || to == "" {
		return tag, err
	}
	return name.NewTag(to+":"+tag.TagStr(), name.StrictValidation)
}

type pusher struct {
	root       v1.ImageIndex
	repository name.Repository
	options    []remote.Option
}

// free refuses a tag that another image has: whoever has pulled that would run something
// else the next time.
func (p pusher) free(tag name.Tag, digest v1.Hash) error {
	there, err := remote.Head(tag, p.options...)
	var refusal *transport.Error
	if errors.As(err, &refusal) && refusal.StatusCode == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if there.Digest != digest {
		return fmt.Errorf("%s is %s already, which is another image: release it as another version", tag, there.Digest)
	}
	return nil
}

func (p pusher) push(image v1.Descriptor, referrers []v1.Descriptor, tag name.Tag) error {
	index, err := p.root.ImageIndex(image.Digest)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(p.repository.Digest(image.Digest.String()), index, p.options...); err != nil {
		return err
	}
	for _, d := range referrers {
		artifact, err := p.root.Image(d.Digest)
		if err != nil {
			return err
		}
		if err := remote.Write(p.repository.Digest(d.Digest.String()), artifact, p.options...); err != nil {
			return err
		}
	}
	return remote.Tag(tag, index, p.options...)
}
