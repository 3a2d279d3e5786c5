package osbapi

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/remuda/remuda/broker"
)

const (
	requestIdentity     = "X-Broker-Api-Request-Identity" // in Go's canonical form
	originatingIdentity = "X-Broker-Api-Originating-Identity"
	apiVersion          = "X-Broker-Api-Version"
)

// minMinor is the oldest 2.x whose requests are understood.
const minMinor = 11

// The minor versions that brought what older platforms do not expect.
const (
	minorAsyncBinding = 14 // also fetching
	minorMaintenance  = 15 // also the polling duration, context updates
	minorEndpoints    = 16
	minorExpiry       = 16
	minorUpdateFlags  = 16
	minorRotation     = 17 // also renew_before
	minorNewest       = 17
)

// checkHeaders returns the minor version that the platform speaks.
func checkHeaders(h http.Header) (minor int, err error) {
	if minor, err = checkVersion(h.Get(apiVersion)); err != nil {
		return 0, err
	}
	if values := h.Values(originatingIdentity); len(values) > 0 {
		_, _, err = readOriginatingIdentity(values[0])
		return minor, err
	}
	return minor, nil
}

// checkVersion is OSB, "API Version Header".
func checkVersion(version string) (int, error) {
	major, minor, ok := strings.Cut(version, ".")
	_, majorOK := number(major)
	m, minorOK := number(minor)
	switch {
	case version == "":
		return 0, &broker.Error{Code: versionUnsupported, Message: "The header X-Broker-API-Version is required. This broker supports 2.11 and later 2.x."}
	case !ok || !majorOK || !minorOK || major != "2" || m < minMinor:
		return 0, &broker.Error{Code: versionUnsupported, Message: "The header X-Broker-API-Version must be 2.11 or a later 2.x."}
	}
	return min(m, minorNewest), nil
}

// number reads decimal digits and nothing else.
func number(s string) (int, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// readOriginatingIdentity is OSB, "Originating Identity": a platform, a space,
// and a JSON object in Base64. It is kept in the audit record alone and never
// logged: it names a person.
func readOriginatingIdentity(header string) (platform string, object json.RawMessage, err error) {
	malformed := invalid("The header X-Broker-API-Originating-Identity must be a platform, a space, and a JSON object in Base64.")
	platform, value, ok := strings.Cut(strings.TrimSpace(header), " ")
	if !ok || platform == "" {
		return "", nil, malformed
	}
	value = strings.TrimSpace(value)
	plain, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		if plain, err = base64.RawStdEncoding.DecodeString(value); err != nil {
			return "", nil, malformed
		}
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(plain, &members); err != nil || members == nil {
		return "", nil, malformed
	}
	return platform, plain, nil
}
