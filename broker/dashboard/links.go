package dashboard

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/store"
)

// Links makes and checks addresses of instances' pages. It implements
// broker.Links and may be used concurrently.
//
// An address is <base>/dashboard/instances/<id>, and without a login server it
// carries a token: "<expiry>.<HMAC-SHA256>", the expiry in seconds since 1970,
// the MAC over purpose, expiry, time of the instance's creation, and id. So a
// token opens one instance alone, and dies with it even if the id is used again.
type Links struct {
	base     *url.URL
	keys     [][]byte // the first signs, all are good
	lifetime time.Duration
	plain    bool // no token: visitors log in
	now      func() time.Time
}

var _ broker.Links = (*Links)(nil)

// LinkOptions is what Links are made from.
type LinkOptions struct {
	Base     string           // where the broker is reached by browsers: http(s)://host[:port][/prefix]
	Keys     [][]byte         // of 32 bytes, the first signs; for this purpose alone
	Lifetime time.Duration    // of a link; default 30 days
	Login    bool             // links carry no token, since visitors log in
	Now      func() time.Time // default time.Now
}

// Purposes of tokens.
const (
	forLink    = "link"
	forSession = "session"
	forLogin   = "login"
)

const (
	defaultLifetime  = 30 * 24 * time.Hour
	operatorLifetime = time.Hour // of a link for an operator
	sessionLifetime  = time.Hour
	pathPrefix       = "/dashboard/"
	instancePath     = pathPrefix + "instances/"
)

// NewLinks checks the options.
func NewLinks(o LinkOptions) (*Links, error) {
	base, err := url.Parse(strings.TrimSuffix(o.Base, "/"))
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.Fragment != "" || base.User != nil {
		return nil, fmt.Errorf("dashboard: %q is not an address like https://broker.example.com", o.Base)
	}
	if len(o.Keys) == 0 {
		return nil, errors.New("dashboard: no key to sign links with")
	}
	if o.Lifetime == 0 {
		o.Lifetime = defaultLifetime
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Links{base: base, keys: o.Keys, lifetime: o.Lifetime, plain: o.Login, now: o.Now}, nil
}

// Make implements broker.Links.
func (l *Links) Make(inst store.Instance) string {
	if l.plain {
		return l.page(inst.ID)
	}
	return l.signed(inst, l.lifetime)
}

// ForOperator is a link that opens the page without a login, for an hour.
func (l *Links) ForOperator(inst store.Instance) string {
	return l.signed(inst, min(l.lifetime, operatorLifetime))
}

// Stale implements broker.Links: the address leads elsewhere, is not good, or
// has less than a quarter of its life before it.
func (l *Links) Stale(inst store.Instance) bool {
	if l.plain {
		return inst.DashboardURL != l.page(inst.ID)
	}
	token, ok := strings.CutPrefix(inst.DashboardURL, l.page(inst.ID)+"?token=")
	return !ok || !l.good(forLink, token, inst, l.now().Add(l.lifetime/4))
}

// page is the address of an instance's page, without a token.
func (l *Links) page(id string) string { return l.base.String() + instancePath + url.PathEscape(id) }

// path is where cookies of the page, or of all pages with "", belong.
func (l *Links) path(id string) string {
	if id == "" {
		return l.base.EscapedPath() + pathPrefix
	}
	return l.base.EscapedPath() + instancePath + url.PathEscape(id)
}

func (l *Links) secure() bool { return l.base.Scheme == "https" }

func (l *Links) signed(inst store.Instance, lifetime time.Duration) string {
	return l.page(inst.ID) + "?token=" + l.token(forLink, inst, l.now().Add(lifetime))
}

// token is good for the purpose and the instance until expiry.
func (l *Links) token(purpose string, inst store.Instance, expiry time.Time) string {
	seconds := strconv.FormatInt(expiry.Unix(), 10)
	return seconds + "." + base64.RawURLEncoding.EncodeToString(mac(l.keys[0], purpose, seconds, strconv.FormatInt(inst.CreatedAt.UnixNano(), 10), inst.ID))
}

// good says whether the token is still so at the time.
func (l *Links) good(purpose, token string, inst store.Instance, at time.Time) bool {
	seconds, encoded, _ := strings.Cut(token, ".")
	got, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	expiry, numberErr := strconv.ParseInt(seconds, 10, 64)
	if err != nil || numberErr != nil || strconv.FormatInt(expiry, 10) != seconds {
		return false
	}
	fields := []string{purpose, seconds, strconv.FormatInt(inst.CreatedAt.UnixNano(), 10), inst.ID}
	return l.anyKey(got, fields...) && at.Unix() < expiry
}

// anyKey says whether one of the keys made the MAC.
func (l *Links) anyKey(got []byte, fields ...string) bool {
	ok := false
	for _, key := range l.keys {
		ok = hmac.Equal(got, mac(key, fields...)) || ok
	}
	return ok
}

// mac authenticates the fields, of which none can be taken for two.
func mac(key []byte, fields ...string) []byte {
	m := hmac.New(sha256.New, key)
	for _, f := range fields {
		fmt.Fprintf(m, "%d:%s,", len(f), f)
	}
	return m.Sum(nil)
}
