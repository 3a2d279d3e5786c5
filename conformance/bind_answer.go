package conformance

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// information are the fields that say how to use the instance.
var information = []string{"credentials", "syslog_drain_url", "route_service_url", "volume_mounts", "endpoints"}

var bindAnswerRules = slices.Concat([]Rule{
	must("binding.information", bindSection, "a binding has credentials, or syslog_drain_url, route_service_url or volume_mounts"),
	must("binding.credentials", bindSection, "credentials is an object"),
	must("binding.syslog-drain-url", bindSection, "syslog_drain_url is a string, and the offering requires syslog_drain"),
	must("binding.route-service-url", bindSection, "route_service_url is a string, and the offering requires route_forwarding"),
	must("binding.volume-mounts-requires", bindSection, "the offering of volume_mounts requires volume_mount"),
	must("binding.volume-mounts", "Volume Mount Object", "a volume mount has driver, container_dir, mode r or rw, device_type shared, and device with volume_id"),
}, since(15,
	must("binding.endpoints", "Endpoint Object", "an endpoint has host, ports as strings of a port or range, and protocol tcp, udp or all"),
), since(16,
	must("binding.expires-at", "Binding Metadata Object", "expires_at has the form yyyy-mm-ddThh:mm:ss.sZ"),
), since(17,
	must("binding.renew-before", "Binding Metadata Object", "renew_before has the form yyyy-mm-ddThh:mm:ss.sZ"),
	must("binding.renew-order", "Binding Metadata Object", "renew_before is not after expires_at"),
))

// checkInformation looks at whether a binding says how to use the instance.
func (s *suite) checkInformation(x *exchange) {
	if s.offering.needs("route_forwarding") {
		s.skip("binding.information", "routes can be forwarded out of band")
		return
	}
	some := slices.ContainsFunc(information[:4], func(name string) bool { return x.object()[name] != nil })
	s.expect("binding.information", some, x, "credentials, or another of "+strings.Join(information[1:4], ", "))
}

// checkBindingAnswer looks at what a binding is.
func (s *suite) checkBindingAnswer(x *exchange) {
	o := x.object()
	if v := o["credentials"]; v != nil {
		s.expect("binding.credentials", isObject.is(v), x, "credentials as an object", fmt.Sprintf("%T", v))
	}
	for _, f := range []struct{ id, name, permission string }{
		{"binding.syslog-drain-url", "syslog_drain_url", "syslog_drain"},
		{"binding.route-service-url", "route_service_url", "route_forwarding"},
	} {
		if v := o[f.name]; v != nil {
			s.expect(f.id, isText.is(v) && s.offering.needs(f.permission), x,
				fmt.Sprintf("%s as a string, only with requires: %s", f.name, f.permission))
		}
	}
	if v := o["volume_mounts"]; v != nil {
		s.checkVolumes(x, v)
	}
	if v := o["endpoints"]; v != nil && s.minor >= 15 {
		s.checkEndpoints(x, v)
	}
	if v, has := o["metadata"]; has && s.minor >= 16 {
		s.checkBindingMetadata(x, v)
	}
}

func (s *suite) checkVolumes(x *exchange, v any) {
	mounts, ok := v.([]any)
	if len(mounts) > 0 {
		s.expect("binding.volume-mounts-requires", s.offering.needs("volume_mount"), x, "volume_mounts only with requires: volume_mount")
	}
	s.expect("binding.volume-mounts", ok, x, "volume_mounts as an array")
	for n, v := range mounts {
		m, _ := v.(obj)
		device, _ := m["device"].(obj)
		config, has := device["mount_config"]
		ok := text(m, "driver") != "" && text(m, "container_dir") != "" &&
			(m["mode"] == "r" || m["mode"] == "rw") && m["device_type"] == "shared" &&
			text(device, "volume_id") != "" && (!has || config == nil || isObject.is(config))
		s.expect("binding.volume-mounts", ok, x, fmt.Sprintf("volume_mounts[%d] with all that is required", n), s.show(m))
	}
}

func (s *suite) checkEndpoints(x *exchange, v any) {
	list, ok := v.([]any)
	s.expect("binding.endpoints", ok, x, "endpoints as an array")
	for n, v := range list {
		e, _ := v.(obj)
		ports, _ := e["ports"].([]any)
		protocol, has := e["protocol"]
		ok := text(e, "host") != "" && len(ports) > 0 && !slices.ContainsFunc(ports, func(p any) bool { return !isPorts(p) }) &&
			(!has || protocol == "tcp" || protocol == "udp" || protocol == "all")
		s.expect("binding.endpoints", ok, x, fmt.Sprintf("endpoints[%d] with host and ports as strings", n), s.show(e))
	}
}

// isPorts says whether v is "443" or "9000-9010".
func isPorts(v any) bool {
	s, ok := v.(string)
	if !ok {
		return false
	}
	from, to, ranged := strings.Cut(s, "-")
	if !ranged {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	return errA == nil && errB == nil && a <= b
}

// timestamp is the pattern of the specification; the fraction is often left out.
var timestamp = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`)

func readTime(v any) (time.Time, bool) {
	s, ok := v.(string)
	if !ok || !timestamp.MatchString(s) {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	return t, err == nil
}

func (s *suite) checkBindingMetadata(x *exchange, v any) {
	m, _ := v.(obj)
	expires, hasExpires := m["expires_at"]
	renew, hasRenew := m["renew_before"]
	end, endOK := readTime(expires)
	before, beforeOK := readTime(renew)
	if hasExpires {
		s.expect("binding.expires-at", endOK, x, "expires_at as yyyy-mm-ddThh:mm:ss.sZ", plain(expires))
	}
	if hasRenew {
		s.expect("binding.renew-before", beforeOK, x, "renew_before as yyyy-mm-ddThh:mm:ss.sZ", plain(renew))
	}
	if endOK && beforeOK {
		s.expect("binding.renew-order", !before.After(end), x, "renew_before not after expires_at",
			plain([]any{renew, expires}))
	}
}
