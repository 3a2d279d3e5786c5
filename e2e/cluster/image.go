package cluster

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
)

// Image is an image of a few files.
type Image struct {
	Name       string            // with tag, as in "localhost/busybox:1"
	Files      map[string]string // path in the image to file on this machine; all may be executed
	Links      map[string]string // path in the image to its symbolic link's target
	Entrypoint []string
	User       string // empty for root
}

// WriteImage writes an image as a docker-archive.
func WriteImage(file string, image Image) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	layer, err := os.CreateTemp(path.Dir(file), "layer-")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	hash := sha256.New()
	if err := writeLayer(io.MultiWriter(layer, hash), image); err != nil {
		return fmt.Errorf("layer of image %s: %w", image.Name, err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": image.Entrypoint, "User": image.User, "Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(hash.Sum(nil))}},
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	configName := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{image.Name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	size, err := layer.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	tw := tar.NewWriter(out)
	for _, f := range []struct {
		name    string
		content []byte
	}{{configName, config}, {"manifest.json", manifest}} {
		if err := tw.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
			return err
		}
		if _, err := tw.Write(f.content); err != nil {
			return err
		}
	}
	if err := tw.WriteHeader(&tar.Header{Name: "layer.tar", Mode: 0o644, Size: size}); err != nil {
		return err
	}
	if _, err := io.Copy(tw, layer); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return out.Close()
}

func writeLayer(w io.Writer, image Image) error {
	tw := tar.NewWriter(w)
	folders := map[string]bool{}
	var parents func(name string) error
	parents = func(name string) error {
		dir := path.Dir(name)
		if dir == "." || folders[dir] {
			return nil
		}
		if err := parents(dir); err != nil {
			return err
		}
		folders[dir] = true
		return tw.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755})
	}
	for _, name := range sorted(image.Files) {
		if err := parents(name); err != nil {
			return err
		}
		content, err := os.ReadFile(image.Files[name])
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := tw.Write(content); err != nil {
			return err
		}
	}
	for _, name := range sorted(image.Links) {
		if err := parents(name); err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: image.Links[name], Mode: 0o777}); err != nil {
			return err
		}
	}
	if err := tw.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
		return err
	}
	return tw.Close()
}

func sorted(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// BusyboxImage is the name of the image that WriteBusybox makes.
const BusyboxImage = "localhost/busybox:1"

// WriteBusybox makes an image of this machine's busybox, which must be linked
// statically (Debian: busybox-static).
func WriteBusybox(file string) error {
	links := map[string]string{}
	for _, name := range []string{
		"sh", "cat", "sleep", "echo", "ls", "dd", "df", "id", "httpd", "wget", "nc", "stat", "touch", "rm", "mkdir", "env", "true", "date", "mount", "sync", "grep", "ps", "kill", "hostname", "head", "tail", "ip", "chmod", "cp", "mv", "od", "wc", "nslookup", "vi", "tr", "seq", "md5sum",
	} {
		links["bin/"+name] = "busybox"
	}
	return WriteImage(file, Image{Name: BusyboxImage, Files: map[string]string{"bin/busybox": "/bin/busybox"}, Links: links})
}
