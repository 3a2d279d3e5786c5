package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/image"
	"github.com/remuda/remuda/provisioner/image/oci"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Make the OCI images that a cluster runs; see 'remuda image build --help'",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImageBuild(), newImageShow())
	return cmd
}

// imageBuild is what the flags of 'remuda image build' say.
type imageBuild struct {
	broker, insecure        bool
	tar, layout, push, name string
	binary, platform        string
}

func newImageBuild() *cobra.Command {
	var b imageBuild
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Make the image of members, or with --broker that of the broker itself",
		Long: `Make an OCI image and print its digest. Nothing but this binary, the
remuda-agent beside it and the package archive is needed: no container runtime, no Dockerfile, no base image.

Without --broker it is the image of members: the root file system that
'remuda serve' with the same settings would use (made first where it is missing,
which takes root and about a minute), with remuda-agent as the agent. With
--broker it is the small image of the broker itself.

--tar writes a file for 'ctr -n k8s.io images import', 'docker load' and
'podman load', --layout an OCI image layout (a folder), --push sends it to a
registry with the logins of 'docker login'. Several at once are fine; with none
of them the image is only made ready in the image folder.

The same inputs give the same digest, on any host and at any time.
SOURCE_DATE_EPOCH (seconds since 1970) sets the time that the image says it was
made; else it is that of the newest package, or of the broker's source.`,
		Example: `  remuda image build --tar members.tar
  remuda image build --push registry.example.com/remuda/members
  remuda image build --broker --push registry.example.com/remuda/broker:1.0.0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return b.run(cmd) },
	}
	f := cmd.Flags()
	f.BoolVar(&b.broker, "broker", false, "make the image of the broker itself")
	f.StringVar(&b.tar, "tar", "", "write an archive to this `file`")
	f.StringVar(&b.layout, "layout", "", "write an OCI image layout to this `folder`, or add to the one there")
	f.StringVar(&b.push, "push", "", "push to this `reference`, like registry.example.com/remuda/members")
	f.BoolVar(&b.insecure, "insecure", false, "push over plain HTTP")
	f.StringVar(&b.name, "name", "", "`name` in archive and layout (default "+oci.MembersRepository+" or "+oci.BrokerRepository+"); where a name has no tag it gets one that says what is inside")
	f.StringVar(&b.binary, "binary", "", "static `binary` that goes into the image: with --broker remuda (default this one), else its agent (default remuda-agent beside it)")
	f.StringVar(&b.platform, "platform", oci.Platform(), "`os/architecture`; only this host's")
	return cmd
}

// run makes the image and writes it everywhere.
func (b imageBuild) run(cmd *cobra.Command) error {
	if b.platform != oci.Platform() {
		return usageError{fmt.Errorf("images for %s are made on such a host; this one is %s", b.platform, oci.Platform())}
	}
	for _, name := range []string{b.name, b.push} {
		if name == "" {
			continue
		}
		if err := oci.CheckName(name); err != nil {
			return usageError{err}
		}
	}
	say := cmd.ErrOrStderr()
	img, err := b.image(cmd, say)
	if err != nil {
		return err
	}
	name := img.Name()
	if b.name != "" {
		if name, err = img.Named(b.name); err != nil {
			return err
		}
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	if err := b.write(cmd.Context(), img, name, say); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), digest)
	return nil
}

// image makes the image that the flags ask for.
func (b imageBuild) image(cmd *cobra.Command, say io.Writer) (*oci.Image, error) {
	epoch, err := sourceDate(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return nil, err
	}
	binary, of := b.binary, version
	if binary == "" {
		find := agentBinary
		if b.broker {
			find = os.Executable
		}
		if binary, err = find(); err != nil {
			return nil, fmt.Errorf("find own binary: %w", err)
		}
	} else {
		of = "" // unknown: the tag is made of its hash
	}
	if b.broker {
		return oci.Broker(cmd.Context(), oci.BrokerOptions{Binary: binary, Version: of, Epoch: epoch})
	}
	c, recipes, err := imageSettings(cmd)
	if err != nil {
		return nil, err
	}
	if err := oci.CheckBinary(binary); err != nil { // before the long step
		return nil, err
	}
	root, err := image.Ensure(cmd.Context(), imageOptions(c, recipes, say))
	if err != nil {
		return nil, err
	}
	return oci.Members(cmd.Context(), oci.MembersOptions{Dir: c.ImageDir, Hash: root.Hash, Binary: binary, Version: of, Epoch: epoch, Progress: say})
}

func (b imageBuild) write(ctx context.Context, img *oci.Image, name string, say io.Writer) error {
	size, err := img.Bytes()
	if err != nil {
		return err
	}
	fmt.Fprintf(say, "%s has %.1f MB\n", name, float64(size)/1e6)
	if b.tar != "" {
		fmt.Fprintf(say, "writing %s\n", b.tar)
		if err := img.WriteTar(ctx, b.tar, name); err != nil {
			return err
		}
	}
	if b.layout != "" {
		fmt.Fprintf(say, "writing %s\n", b.layout)
		if err := img.WriteLayout(ctx, b.layout, name); err != nil {
			return err
		}
	}
	if b.push != "" {
		fmt.Fprintf(say, "pushing to %s\n", b.push)
		pushed, err := img.Push(ctx, b.push, oci.PushOptions{Insecure: b.insecure, Progress: say})
		if err != nil {
			return err
		}
		fmt.Fprintf(say, "pushed %s\n", pushed)
	}
	return nil
}

// imageSettings loads what decides the root file system.
func imageSettings(cmd *cobra.Command) (Config, []catalog.Recipe, error) {
	c, err := loadConfig(cmd)
	recipes, recipesErr := loadRecipes(c)
	return c, recipes, errors.Join(err, recipesErr)
}

// sourceDate reads SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch).
func sourceDate(text string) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || seconds > 253402300799 { // the year 9999
		return nil, usageError{fmt.Errorf("SOURCE_DATE_EPOCH %q is no number of seconds since 1970", text)}
	}
	return new(time.Unix(seconds, 0)), nil
}

// imageView is what 'remuda image show' tells.
type imageView struct {
	Image  string `json:"image"` // provisioner.Definition.Image
	Folder string `json:"folder"`
	Made   bool   `json:"made"`
	Name   string `json:"name,omitempty"` // of the OCI image with this binary
	Digest string `json:"digest,omitempty"`
	Size   int64  `json:"size,omitempty"`
}

func newImageShow() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show which root file system the recipes need, and its OCI image; makes nothing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usageError{fmt.Errorf("output %q is neither table nor json", output)}
			}
			v, err := showImage(cmd)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			made := "not made yet"
			if v.Made {
				made = v.Folder
			}
			fmt.Fprintf(w, "image\t%s\nroot file system\t%s\n", v.Image, made)
			if v.Digest != "" {
				fmt.Fprintf(w, "name\t%s\ndigest\t%s\nsize\t%.1f MB\n", v.Name, v.Digest, float64(v.Size)/1e6)
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func showImage(cmd *cobra.Command) (imageView, error) {
	c, recipes, err := imageSettings(cmd)
	if err != nil {
		return imageView{}, err
	}
	root, made, err := image.Find(imageOptions(c, recipes, nil))
	if err != nil {
		return imageView{}, err
	}
	v := imageView{Image: root.Hash, Folder: root.Path, Made: made}
	if !made {
		return v, nil
	}
	epoch, err := sourceDate(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return v, err
	}
	binary, err := agentBinary()
	if err != nil {
		return v, err
	}
	img, err := oci.Members(cmd.Context(), oci.MembersOptions{Dir: c.ImageDir, Hash: root.Hash, Binary: binary, Version: version, Epoch: epoch, Packed: true})
	if errors.Is(err, oci.ErrNotPacked) || errors.Is(err, oci.ErrBinary) {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	digest, err := img.Digest()
	if err != nil {
		return v, err
	}
	v.Name, v.Digest = img.Name(), digest.String()
	v.Size, err = img.Bytes()
	return v, err
}
