package oci

import (
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
)

// machines are the ELF machines of Go's architectures.
var machines = map[string]elf.Machine{
	"386": elf.EM_386, "amd64": elf.EM_X86_64, "arm": elf.EM_ARM, "arm64": elf.EM_AARCH64, "loong64": elf.EM_LOONGARCH,
	"ppc64le": elf.EM_PPC64, "riscv64": elf.EM_RISCV, "s390x": elf.EM_S390,
}

// binary is a program that goes into an image.
type binary struct {
	path, digest string
	committed    time.Time // of its source; zero where the binary does not say
}

// CheckBinary says whether a binary can go into an image.
func CheckBinary(path string) error {
	_, err := readBinary(path)
	return err
}

// readBinary looks at a binary: it must run where there is nothing else.
func readBinary(path string) (binary, error) {
	f, err := os.Open(path)
	if err != nil {
		return binary{}, fmt.Errorf("read binary: %w", err)
	}
	defer func() { _ = f.Close() }()
	program, err := elf.NewFile(f)
	if err != nil {
		return binary{}, fmt.Errorf("%w: %s is no program for Linux: %w", ErrBinary, path, err)
	}
	if want := machines[runtime.GOARCH]; program.Machine != want {
		return binary{}, fmt.Errorf("%w: %s is for %s, and this host is %s", ErrBinary, path, program.Machine, want)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			return binary{}, fmt.Errorf("%w: %s needs shared libraries; build it with CGO_ENABLED=0, as 'make build' does", ErrBinary, path)
		}
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return binary{}, fmt.Errorf("read binary: %w", err)
	}
	b := binary{path: path, digest: hex.EncodeToString(sum.Sum(nil)), committed: time.Unix(0, 0)}
	if info, err := buildinfo.ReadFile(path); err == nil {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" {
				if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
					b.committed = t
				}
			}
		}
	}
	return b, nil
}
