package oci

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/remuda/remuda/provisioner/image"
)

// BrokerUser is who the broker is in its image: nobody in particular.
const BrokerUser = 65532

// BrokerOptions say what the broker's image is made from.
type BrokerOptions struct {
	Binary       string     // remuda, static
	Certificates string     // whom to trust; "" is this host's bundle
	Version      string     // of the binary
	Epoch        *time.Time // SOURCE_DATE_EPOCH; nil takes the time of the binary's source
}

// hostCertificates is where the package ca-certificates keeps its bundle, and
// where Go looks first.
const hostCertificates = "/etc/ssl/certs/ca-certificates.crt"

// Broker makes the image of the broker and its controller: the binary, the
// certificates of authorities, and a user without rights.
func Broker(_ context.Context, o BrokerOptions) (*Image, error) {
	program, err := readBinary(o.Binary)
	if err != nil {
		return nil, err
	}
	created := fixedTime(o.Epoch, program.committed)
	certificates := o.Certificates
	if certificates == "" {
		certificates = hostCertificates
	}
	if _, err := os.Stat(certificates); err != nil {
		return nil, fmt.Errorf("%w: no certificates of authorities; install them with: apt-get install ca-certificates (%w)", image.ErrPrerequisite, err)
	}
	// A fixed time, so that the layer is the same for every version.
	base, err := inMemory(func(w io.Writer) error { return writeEntries(w, brokerEntries(certificates), time.Unix(0, 0)) })
	if err != nil {
		return nil, fmt.Errorf("pack the base: %w", err)
	}
	top, err := inMemory(func(w io.Writer) error {
		return writeEntries(w, []entry{
			{name: "usr/", mode: 0o755}, {name: "usr/local/", mode: 0o755}, {name: "usr/local/bin/", mode: 0o755},
			{name: "usr/local/bin/remuda", mode: 0o755, file: program.path},
		}, created)
	})
	if err != nil {
		return nil, fmt.Errorf("pack the binary: %w", err)
	}
	img, err := recipe{
		layers: []*layer{base, top}, histories: []string{"certificates and users", "binary"}, created: created,
		entrypoint: []string{"/usr/local/bin/remuda"}, user: fmt.Sprint(BrokerUser), env: []string{searchPath},
		labels: labels("remuda", o.Version, program, nil),
	}.image()
	if err != nil {
		return nil, err
	}
	return &Image{Image: img, Repository: BrokerRepository, Tag: versionTag(o.Version, program)}, nil
}

func brokerEntries(certificates string) []entry {
	return []entry{
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, text: fmt.Sprintf("root:x:0:\nnonroot:x:%d:\n", BrokerUser)},
		{name: "etc/passwd", mode: 0o644, text: fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:%d:%d:nonroot:/var/lib/remuda:/sbin/nologin\n", BrokerUser, BrokerUser)},
		{name: "etc/ssl/", mode: 0o755},
		{name: "etc/ssl/certs/", mode: 0o755},
		{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, file: certificates},
		{name: "tmp/", mode: 0o1777},
		{name: "var/", mode: 0o755},
		{name: "var/lib/", mode: 0o755},
		{name: "var/lib/remuda/", mode: 0o700, uid: BrokerUser},
	}
}
