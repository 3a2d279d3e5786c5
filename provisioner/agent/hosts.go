package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const hostsPath = "/etc/hosts"

// SetHosts writes the addresses of the group's members to the Place at /etc/hosts.
func (a *Agent) SetHosts(r HostsRequest) error {
	if a.places == nil || a.places.at(hostsPath) == nil || !a.places.at(hostsPath).File {
		return invalid("set hosts: this agent keeps no %s", hostsPath)
	}
	text, err := hostsText(r.Names)
	if err != nil {
		return invalid("set hosts: %v", err)
	}
	if err := a.places.writeFile(hostsPath, text); err != nil {
		return fmt.Errorf("set hosts: %w", err)
	}
	return nil
}

func hostsText(names map[string]netip.Addr) (string, error) {
	var out strings.Builder
	out.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(names)) {
		addr := names[name]
		if !hostName(name) || name == "localhost" {
			faults = append(faults, fmt.Errorf("%q cannot be the name of a member", name))
		}
		if !addr.IsValid() || addr.Zone() != "" {
			faults = append(faults, fmt.Errorf("%q has no address", name))
		}
		fmt.Fprintf(&out, "%s\t%s\n", addr.Unmap(), name)
	}
	return out.String(), errors.Join(faults...)
}

// hostName says whether s is one, see RFC 1123 section 2.1.
func hostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
			return false
		}
	}
	return true
}

// writeFile writes a file place as it is, in place: a mount of it shows no other file. Who reads it
// meanwhile sees the old text, or the new one with the rest of the old one.
func (p *places) writeFile(path, text string) error {
	pl := p.at(path)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asOwner(func(act *actor) error {
		v := volume{path: p.disk}
		if pl.Memory {
			v = volume{path: p.memory, memory: true}
		}
		return p.volume(act, v, func(v volume) error {
			fd, _, err := p.open(act, v, pl)
			if err != nil {
				return err
			}
			defer closeFD(fd)
			file, err := openAt(unix.AT_FDCWD, magic(fd), unix.O_WRONLY, 0)
			if err != nil {
				return pathError("open", path, err)
			}
			defer closeFD(file)
			return pathError("write", path, errors.Join(writeAt(file, []byte(text), 0), unix.Ftruncate(file, int64(len(text)))))
		})
	})
}
