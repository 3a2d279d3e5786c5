package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/backendtest"
)

// blocks returns the code blocks of the README with that label.
func blocks(t *testing.T, label string) []string {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile("(?ms)^```"+label+"\n(.*?)^```$").FindAllStringSubmatch(string(b), -1) {
		out = append(out, m[1])
	}
	if len(out) == 0 {
		t.Fatalf("the README has no block %q", label)
	}
	return out
}

// The walk-through, line by line as it is written, with another address and
// state folder.
func TestReadmeWalkThrough(t *testing.T) {
	h := newHost(t, backendtest.Binary(t), "offerings: [mysql, redis]\npools: {mysql/medium: {floor: 0}, redis/medium: {floor: 0}}")
	for _, program := range []string{"curl", "jq", "mariadb"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: 'make test' installs it as root", err)
		}
	}
	h.start()
	if err := os.WriteFile(filepath.Join(h.state, "password"), []byte(h.password), 0o600); err != nil {
		t.Fatal(err)
	}
	script := strings.NewReplacer("127.0.0.1:8080", h.listen, "/var/lib/remuda", h.state, "bin/remuda", h.binary).
		Replace(strings.Join(blocks(t, "sh walk"), "\n"))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euxo", "pipefail", "-c", script)
	cmd.Env = h.env()
	out, err := cmd.CombinedOutput()
	said := strings.ReplaceAll(string(out), h.password, "…")
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, want := range []string{"mysql: small, medium", "\nid\n1\n", "shop  mysql"} {
		if !strings.Contains(said, want) {
			t.Errorf("the walk-through does not show %q:\n%s", want, said)
		}
	}
	if again := regexp.MustCompile(`mysql +medium +warm +2 `); !again.MatchString(said) {
		t.Errorf("the group is not warm in its second generation at the end:\n%s", said)
	}
}

// The README's own recipe is one YAML file and nothing else.
func TestOwnMiddleware(t *testing.T) {
	own := blocks(t, "yaml recipe")[0]
	if b, err := os.ReadFile("../catalog/testdata/memcached.yaml"); err != nil || string(b) != own {
		t.Errorf("the README's recipe is not catalog/testdata/memcached.yaml (%v)", err)
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "memcached.yaml"), []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, backendtest.Binary(t), fmt.Sprintf("recipes: [%q]\nofferings: [memcached]", folder))
	h.start()
	h.settled(time.Minute, 1)
	p := h.plan("memcached", "small")
	h.want("provision", h.provision("cache", p), 201)
	group := h.groupOf("cache")
	c, res := h.bind("cache", "b", p)
	h.want("bind", res, 201)
	if err := useMemcached(c); err != nil {
		t.Error(err)
	}
	h.want("unbind", h.unbind("cache", "b", p), 200)
	if err := useMemcached(c); err == nil {
		t.Error("the login of a deleted binding still works")
	}
	h.want("deprovision", h.deprovision("cache", p), 200)
	h.reused(group)
}

// useMemcached logs in as memcached's text protocol wants it and stores a value.
func useMemcached(c map[string]any) error {
	conn, err := net.DialTimeout("tcp", address(c), 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(conn)
	login := fmt.Sprintf("%s %s", c["username"], c["password"])
	for _, value := range []string{login, "hello"} {
		fmt.Fprintf(conn, "set key 0 0 %d\r\n%s\r\n", len(value), value)
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if line != "STORED\r\n" {
			return fmt.Errorf("memcached says %q", strings.TrimSpace(line))
		}
	}
	return nil
}

// A broken recipe or configuration stops the start with every fault by file
// and line, before anything is made.
func TestBrokenInputStopsTheStart(t *testing.T) {
	folder := t.TempDir()
	broken := "name: Bad_Name\nversion: one\nroles: []\nendpoints: []\ncredentials: {}\noffering: {id: x}\nnonsense: 1\n"
	if err := os.WriteFile(filepath.Join(folder, "bad.yaml"), []byte(broken), 0o644); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(folder, "config.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "recipes: [%q]\n", folder), 0o644); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(folder, "state")
	cmd := exec.Command(backendtest.Binary(t), "serve", "--config", config)
	cmd.Env = append(os.Environ(), "REMUDA_STATE_DIR="+state, "REMUDA_IMAGE_DIR="+filepath.Join(folder, "image"))
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatal("the broker started")
	}
	for _, want := range []string{"bad.yaml:1", "bad.yaml:2", "bad.yaml:7"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("the state folder was made all the same")
	}
}
