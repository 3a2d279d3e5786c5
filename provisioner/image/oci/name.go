package oci

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// ErrName: a name of an image is not one.
var ErrName = errors.New("not a name for an image")

// Named completes what the user calls an image: "host/repository" gets the tag
// that says what is inside. A name without a host is refused, since tools
// disagree on what it means.
func (i *Image) Named(text string) (string, error) {
	tag, err := i.reference(text)
	if err != nil {
		return "", err
	}
	return tag.Name(), nil
}

// CheckName says, before there is an image, whether Named and Push would take a name.
func CheckName(text string) error {
	_, err := (&Image{Repository: MembersRepository, Tag: "latest"}).reference(text)
	return err
}

func (i *Image) reference(text string, options ...name.Option) (name.Tag, error) {
	host, _, ok := strings.Cut(text, "/")
	if !ok || host != "localhost" && !strings.ContainsAny(host, ".:") {
		return name.Tag{}, fmt.Errorf("%w: %q has no host; say, like %s, where it belongs", ErrName, text, i.Repository)
	}
	if strings.Contains(text, "@") {
		return name.Tag{}, fmt.Errorf("%w: %q has a digest, which only the image itself decides", ErrName, text)
	}
	tag, err := name.NewTag(text, append(options, name.WithDefaultTag(i.Tag))...)
	if err != nil {
		return name.Tag{}, fmt.Errorf("%w: %w", ErrName, err)
	}
	return tag, nil
}
