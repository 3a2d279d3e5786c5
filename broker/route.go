package broker

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// route is bind_resource.route, read: what a platform wants to be intermediated.
type route struct {
	Host string `json:"host"`           // a DNS name in small letters, or an IPv4 address
	Port int    `json:"port,omitempty"` // 0 when not given
	Path string `json:"path,omitempty"` // "" or "/…"
}

var (
	hostName  = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)
	routePath = regexp.MustCompile(`^(/[A-Za-z0-9._~-]*)*$`)
)

// readRoute reads a route like app.example.com/path, with or without a scheme
// before and a port behind the host. Only what can stand in a server's
// configuration as it is is let through.
func readRoute(text string) (r route, err error) {
	malformed := refuse(Invalid, "bind_resource.route must be a host name or an IPv4 address, with a port and a path if needed, such as app.example.com/path.")
	if len(text) > 2048 {
		return r, malformed
	}
	rest := text
	for _, scheme := range []string{"https://", "http://"} {
		rest = strings.TrimPrefix(rest, scheme)
	}
	host, path, found := strings.Cut(rest, "/")
	if found {
		r.Path = strings.TrimRight("/"+path, "/")
	}
	host, port, found := strings.Cut(host, ":")
	if found {
		if r.Port, err = strconv.Atoi(port); err != nil || r.Port < 1 || r.Port > 65535 {
			return route{}, malformed
		}
	}
	r.Host = strings.TrimSuffix(strings.ToLower(host), ".")
	last := r.Host[strings.LastIndexByte(r.Host, '.')+1:]
	address, notAddress := netip.ParseAddr(r.Host)
	numeric := last != "" && strings.Trim(last, "0123456789") == ""
	switch {
	case len(r.Host) > 253 || !hostName.MatchString(r.Host) || !routePath.MatchString(r.Path):
		return route{}, malformed
	case numeric && (notAddress != nil || !address.Is4()): // 127.1 is an address to some
		return route{}, malformed
	}
	return r, nil
}
