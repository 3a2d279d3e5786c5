package local

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/image"
	"github.com/remuda/remuda/provisioner/orders"
)

// template returns the pristine disk image for a member: an ext4 file system of
// the plan's size whose folders hold what the role's Template program makes.
// It is made once per host and role, and shared by all back ends.
func (b *Backend) template(ctx context.Context, d provisioner.Definition, m provisioner.Member) (string, error) {
	key, err := json.Marshal(struct {
		Image       string
		User        string
		Paths       []catalog.Path
		Template    *catalog.Program
		Environment map[string]string
	}{d.Image, m.Role.User, m.Role.Paths, m.Role.Template, d.Environment})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(key)
	name := hex.EncodeToString(sum[:16])
	disks, err := image.EnsureTemplates(ctx, image.TemplateOptions{
		Dir: b.opts.ImageDir, Key: name, Sizes: []catalog.Bytes{m.Size.Disk}, Progress: b.opts.Progress,
		Fill: func(ctx context.Context, dir string) error { return b.fillTemplate(ctx, d, m, dir) },
	})
	if err != nil {
		return "", fmt.Errorf("pristine data of %s/%s: %w", d.Recipe.Name, m.Role.Name, err)
	}
	return disks[0].Path, nil
}

// fillTemplate makes the folders of a disk in dir and runs the role's Template
// program on them, in a container of its own that is removed afterwards.
func (b *Backend) fillTemplate(ctx context.Context, d provisioner.Definition, pm provisioner.Member, dir string) (err error) {
	id := "t" + strings.ToLower(rand.Text()[:12])
	pm.Leader = true
	d.Members = map[string]catalog.Size{pm.Role.Name: {Count: 1, CPU: pm.Size.CPU, Memory: max(pm.Size.Memory, 512<<20), Disk: pm.Size.Disk}}
	d.Recipe.Roles = []catalog.Role{pm.Role}
	d.Recipe.Leader = pm.Role.Name
	r, err := b.newRecord(provisioner.Group{ID: id, Generation: 1, Definition: d}, true)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := b.Close(context.WithoutCancel(ctx), id); err == nil {
			err = cerr
		}
	}()
	members, err := b.members(r)
	if err != nil {
		return err
	}
	m := members[0]
	binds, err := makeFolders(dir, m.places)
	if err != nil || m.Role.Template == nil {
		return err
	}
	if err := m.run(ctx, binds); err != nil {
		return err
	}
	if err := mountMemory(m.record().PID, m.places); err != nil {
		return err
	}
	if err := m.client.Start(ctx, agent.StartRequest{Generation: 1, User: m.Role.User, Environment: d.Environment, TimeoutSeconds: 10}); err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	p, err := m.orders().Template()
	if err != nil {
		return err
	}
	if _, err := orders.Run(ctx, m.client, p); err != nil {
		return fmt.Errorf("the recipe's template program: %w", err)
	}
	return clearDir(filepath.Join(dir, "tmp"))
}

// makeFolders makes the folders of a disk, and says where each is bound.
func makeFolders(dir string, places []place) (map[string]string, error) {
	binds := map[string]string{}
	for _, p := range places {
		if p.folder == "" {
			continue
		}
		folder := filepath.Join(dir, p.folder)
		if err := os.Mkdir(folder, 0o700); err != nil {
			return nil, err
		}
		if err := os.Chown(folder, p.uid, p.gid); err != nil {
			return nil, err
		}
		if err := unix.Chmod(folder, p.mode); err != nil { // os.Chmod would lose the sticky bit's number
			return nil, err
		}
		binds[folder] = p.target
	}
	return binds, nil
}
