package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
)

func TestHostSources(t *testing.T) {
	etc := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("sources.list", "# old\ndeb [signed-by=/k.gpg arch=amd64] http://a.example/debian bookworm main contrib # x\ndeb-src http://a.example/debian bookworm main\ndeb cdrom:[x]/ bookworm main\n"+
		"deb http://other.example/apt cloud-bookworm main\ndeb http://a.example/debian bookworm-backports main\n")
	write("sources.list.d/debian.sources", "# c\nTypes: deb deb-src\nURIs: http://b.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n\n"+
		"Types: deb\nURIs: http://c.example\nSuites: nodistro\nComponents: main\n\nTypes: deb\nEnabled: no\nURIs: http://d.example\nSuites: bookworm\nComponents: main\n")
	write("sources.list.d/broken.sources", ":::\n")
	write("sources.list.d/x.save", "deb http://e.example bookworm main\n")
	got, err := hostSources(etc, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].ext != ".sources" || got[1].ext != ".list" {
		t.Fatalf("sources are %q", got)
	}
	if want := "deb [signed-by=/k.gpg arch=amd64] http://a.example/debian bookworm main contrib\n"; got[1].text != want {
		t.Errorf("one-line sources are %q", got[1].text)
	}
	if s := got[0].text; !strings.Contains(s, "b.example") || !strings.Contains(s, "\n abc") || strings.Contains(s, "c.example") || strings.Contains(s, "d.example") {
		t.Errorf("stanzas are %q", s)
	}
	if _, err := hostSources(t.TempDir(), "bookworm"); !errors.Is(err, ErrPrerequisite) {
		t.Errorf("no sources: %v", err)
	}
}

func TestReadSystem(t *testing.T) {
	file := filepath.Join(t.TempDir(), "os-release")
	for text, ok := range map[string]bool{
		"ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n":       true,
		"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_CODENAME=noble": true,
		"ID=fedora\nVERSION_ID=41\nPRETTY_NAME=\"Fedora Linux 41\"":       false,
		"ID=debian": false,
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readSystem(file); (err == nil) != ok || err != nil && !errors.Is(err, ErrPrerequisite) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestHash(t *testing.T) {
	a := ingredients{Builder: "1", System: "x", Packages: sorted([]string{"b", "a"}, []string{"a"}), Users: sorted(nil)}
	b := ingredients{Builder: "1", System: "x", Packages: sorted([]string{"a", "b"}), Users: sorted()}
	if a.hash() != b.hash() {
		t.Error("the order of packages makes another image")
	}
	b.Directories = []string{"/x"}
	if a.hash() == b.hash() {
		t.Error("a mount point makes no other image")
	}
	c := a
	program := catalog.GoProgram{Module: "example.com/p", Version: "v1.0.0", Name: "p", Sum: "h1:a"}
	c.GoPrograms = []catalog.GoProgram{program}
	if a.hash() == c.hash() {
		t.Error("a program makes no other image")
	}
	d := c
	program.Sum = "h1:b"
	d.GoPrograms = []catalog.GoProgram{program}
	if c.hash() == d.hash() {
		t.Error("another sum makes no other image")
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners of files can be set by root only")
	}
}

func TestCustomise(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	for _, dir := range []string{"etc/ssh", "etc/apt/sources.list.d", "var/lib/mysql/old", "usr/bin", "tmp", "var/cache/apt/archives", "etc/ssl/certs", "etc/ssl/private", "etc/apt/apt.conf.d"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nredis:x:999:999::/:/bin/false\n", "etc/group": "root:x:0:\nredis:x:999:\nmysql:x:107:\n", "etc/machine-id": "abc",
		"etc/ssh/ssh_host_rsa_key": "k", "usr/bin/su": "x", "tmp/left": "x", "var/cache/apt/archives/a.deb": "x",
		"etc/shadow": "root:*:20782:0:99999:7:::\nredis:!:20782::::::\n", "etc/shadow-": "root:*:20781::::::\n", "etc/apt/apt.conf.d/99mmdebstrap": "proxy",
		"etc/ssl/certs/ssl-cert-snakeoil.pem": "c", "etc/ssl/private/ssl-cert-snakeoil.key": "k",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "usr/bin/su"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink("/etc", filepath.Join(root, "srv")), os.Symlink("ssl-cert-snakeoil.pem", filepath.Join(root, "etc/ssl/certs/62742064.0"))); err != nil {
		t.Fatal(err)
	}
	defer unix.Umask(unix.Umask(0o077))
	err := customise(root, ingredients{Users: []string{"mysql", "redis", "web"}, Directories: []string{"/data", "/var/lib/mysql"}})
	if err != nil {
		t.Fatal(err)
	}
	passwd, _ := os.ReadFile(filepath.Join(root, "etc/passwd"))
	for _, want := range []string{"\nmysql:x:998:107::", "\nweb:x:997:997::"} {
		if !strings.Contains(string(passwd), want) {
			t.Errorf("passwd has no %q:\n%s", want, passwd)
		}
	}
	if shadow, _ := os.ReadFile(filepath.Join(root, "etc/shadow")); string(shadow) != "root:*::0:99999:7:::\nredis:!:::::::\n" {
		t.Errorf("shadow is %q", shadow)
	}
	for _, gone := range []string{"etc/shadow-", "etc/apt/apt.conf.d/99mmdebstrap", "etc/ssl/certs/ssl-cert-snakeoil.pem", "etc/ssl/certs/62742064.0", "etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssh/ssh_host_rsa_key", "var/lib/mysql/old", "tmp/left", "var/cache/apt/archives"} {
		if exists(filepath.Join(root, gone)) {
			t.Errorf("%s is still there", gone)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "etc/hosts")); err != nil || info.Mode() != 0o644 {
		t.Errorf("a file to mount over depends on the umask: %v, %v", info.Mode(), err)
	}
	for _, there := range []string{"data", "remuda/agent", "remuda/run", "etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/shm"} {
		if !exists(filepath.Join(root, there)) {
			t.Errorf("%s is missing", there)
		}
	}
	if info, _ := os.Stat(filepath.Join(root, "usr/bin/su")); info.Mode()&os.ModeSetuid != 0 {
		t.Error("a program is still setuid")
	}
	if err := customise(root, ingredients{Directories: []string{"/srv"}}); err == nil {
		t.Error("a link that leads out of the tree is followed")
	}
}

func TestLockWaitsAndGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path, func() { t.Error("waits for nobody") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	waited := 0
	if _, err := lock(ctx, path, func() { waited++ }); !errors.Is(err, context.DeadlineExceeded) || waited != 1 {
		t.Errorf("%v after %d", err, waited)
	}
	unlock()
	again, err := lock(t.Context(), path, func() {})
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestEnsureRefusesBadPaths(t *testing.T) {
	for _, dir := range []string{"/", "x", "/a/../b"} {
		if _, err := Ensure(t.Context(), Options{Dir: t.TempDir(), Directories: []string{dir}}); err == nil {
			t.Errorf("%q is taken", dir)
		}
	}
}

func TestNoRoom(t *testing.T) {
	if err := enoughRoom(t.TempDir(), 1<<60); !errors.Is(err, ErrPrerequisite) || !strings.Contains(err.Error(), "MiB are needed") {
		t.Errorf("error is %v", err)
	}
}

func TestExplain(t *testing.T) {
	err := explain(errors.New("exit status 1"), []string{"E: Temporary failure resolving 'x'"})
	if !strings.Contains(err.Error(), "cannot be reached") {
		t.Error(err)
	}
}

func TestHalfMadeImagesGo(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, halfDone+"1", "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := removeHalfDone(dir); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(dir)
	if slices.ContainsFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), halfDone) }) {
		t.Error("a half-made image is still there")
	}
}
