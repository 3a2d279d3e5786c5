package oci

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// PushOptions say how a registry is spoken to.
type PushOptions struct {
	Insecure bool      // plain HTTP
	Progress io.Writer // lines while it goes on; nil for none
}

// Push writes the image to a registry, as the logins of 'docker login' (or
// another tool that keeps them like it) allow, and returns the complete name.
// What the registry has already is not sent again.
func (i *Image) Push(ctx context.Context, ref string, o PushOptions) (string, error) {
	var options []name.Option
	if o.Insecure {
		options = append(options, name.Insecure)
	}
	tag, err := i.reference(ref, options...)
	if err != nil {
		return "", err
	}
	done := make(chan struct{})
	var said sync.WaitGroup
	said.Go(func() { heartbeat(done, tag.Name(), o.Progress) })
	err = remote.Write(tag, i.Image, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("remuda"))
	close(done)
	said.Wait()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", tag.Name(), err)
	}
	return tag.Name(), nil
}

// heartbeat says every now and then that a push goes on.
func heartbeat(done <-chan struct{}, ref string, w io.Writer) {
	begin := time.Now()
	beat := time.NewTicker(10 * time.Second)
	defer beat.Stop()
	for {
		select {
		case <-done:
			return
		case <-beat.C:
			if w != nil {
				fmt.Fprintf(w, "  still pushing %s (%d s)\n", ref, int(time.Since(begin).Seconds()))
			}
		}
	}
}
