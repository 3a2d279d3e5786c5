// Command up runs a cluster for developing against it, until it is interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/remuda/remuda/e2e/cluster"
)

func main() {
	dir := flag.String("dir", "", "folder that gets the cluster's folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "up:", err)
		os.Exit(1)
	}
}

// run starts a cluster with images, says how to use it, and waits.
func run(ctx context.Context, dir string, images []string) (err error) {
	c, err := cluster.Start(ctx, cluster.Options{Log: os.Stderr, Dir: dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	busybox := filepath.Join(c.Dir(), "busybox.tar")
	if err := cluster.WriteBusybox(busybox); err == nil {
		images = append(images, busybox)
	}
	for _, image := range images {
		if err := c.ImportImage(ctx, image); err != nil {
			return err
		}
	}
	programs, err := cluster.Programs(ctx, os.Stderr)
	if err != nil {
		return err
	}
	enter := fmt.Sprintf("nsenter --net=/proc/%d/ns/net", c.InitPID())
	// kubectl and a shell by fixed names, since the process is another one each time
	script := fmt.Sprintf("#!/bin/sh\nexport KUBECONFIG=%s PATH=%s:$PATH\nexec %s \"$@\"\n", c.Kubeconfig(), programs, enter)
	in := filepath.Join(c.Dir(), "in")
	if err := os.WriteFile(in, []byte(script), 0o755); err != nil {
		return err
	}
	fmt.Printf(`
KUBECONFIG=%[1]s
audit log  %[2]s
logs       %[3]s/log/*.log

A command in the cluster's network namespace, with KUBECONFIG and kubectl:
  %[3]s/in kubectl get nodes
Processes and mounts too, for ctr and runc:
  nsenter -t %[4]d -n -m -p
More images:
  %[3]s/ctr images import - < image.tar
Ctrl-C ends the cluster and removes everything.
`, c.Kubeconfig(), c.AuditLog(), c.Dir(), c.InitPID())
	ctr := fmt.Sprintf("#!/bin/sh\nexec nsenter -t %d -n -m -p ctr -n k8s.io \"$@\"\n", c.InitPID())
	if err := os.WriteFile(filepath.Join(c.Dir(), "ctr"), []byte(ctr), 0o755); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
