package dashboard

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/remuda/remuda/broker"
)

// OAuth is a login server and the platform that knows who may see what.
type OAuth struct {
	AuthorizationURL string
	TokenURL         string
	// PermissionsURL answers a GET with the user's token with {"manage": …, "read": …};
	// {instance_id} in it is replaced. Cloud Foundry has
	// <api>/v3/service_instances/{instance_id}/permissions.
	PermissionsURL string
	ClientID       string // {offering} in it is replaced by the offering's name
	ClientSecret   string
	Scopes         []string
	Client         *http.Client // default one with a time limit of 10 s
}

// loginLifetime is how long a visitor may take to log in.
const loginLifetime = 10 * time.Minute

// maxAnswer bounds what is read of an answer of the platform, in bytes.
const maxAnswer = 64 << 10

// Client is the OAuth client of an offering.
type Client struct{ ID, Secret, RedirectURI string }

// Client returns the client of an offering's dashboards, for dashboard_client of
// the catalog. ok is false when there is no login server.
func (h *Handler) Client(offering string) (c Client, ok bool) {
	if h.o.OAuth == nil {
		return Client{}, false
	}
	cfg := h.config(offering)
	return Client{cfg.ClientID, cfg.ClientSecret, cfg.RedirectURL}, true
}

func (h *Handler) config(offering string) *oauth2.Config {
	o := h.o.OAuth
	return &oauth2.Config{
		ClientID:     strings.ReplaceAll(o.ClientID, "{offering}", offering),
		ClientSecret: o.ClientSecret, Scopes: o.Scopes,
		Endpoint:    oauth2.Endpoint{AuthURL: o.AuthorizationURL, TokenURL: o.TokenURL},
		RedirectURL: h.o.Links.base.String() + pathPrefix + "callback",
	}
}

// attempt is a login that has begun. The visitor's browser keeps it, signed.
type attempt struct {
	Instance string `json:"i"`
	State    string `json:"s"`
	Verifier string `json:"v"` // of PKCE
	Expiry   int64  `json:"e"` // seconds since 1970
}

// login sends the visitor to the login server.
func (h *Handler) login(w http.ResponseWriter, r *http.Request, d broker.Details) {
	a := attempt{Instance: d.Instance.ID, State: rand.Text(), Verifier: oauth2.GenerateVerifier(),
		Expiry: h.o.Links.now().Add(loginLifetime).Unix()}
	text, err := json.Marshal(a)
	if err != nil {
		h.failed(w, r, err)
		return
	}
	value := base64.RawURLEncoding.EncodeToString(text)
	value += "." + base64.RawURLEncoding.EncodeToString(mac(h.o.Links.keys[0], forLogin, value))
	http.SetCookie(w, h.loginCookie(value, int(loginLifetime.Seconds())))
	w.Header().Set("Location", h.config(d.Offering).AuthCodeURL(a.State, oauth2.S256ChallengeOption(a.Verifier)))
	w.WriteHeader(http.StatusSeeOther)
}

func (h *Handler) loginCookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{Name: loginCookie, Value: value, Path: h.o.Links.path(""), MaxAge: maxAge,
		HttpOnly: true, Secure: h.o.Links.secure(), SameSite: http.SameSiteLaxMode}
}

// attempt reads back what login gave the browser.
func (h *Handler) attempt(r *http.Request) (a attempt, err error) {
	c, err := r.Cookie(loginCookie)
	if err != nil {
		return a, err
	}
	value, encoded, _ := strings.Cut(c.Value, ".")
	got, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || !h.o.Links.anyKey(got, forLogin, value) {
		return a, errors.New("the cookie is not from here")
	}
	text, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return a, err
	}
	if h.o.Links.now().Unix() >= a.Expiry {
		return a, errors.New("the login took too long")
	}
	return a, nil
}

// callback is where the login server sends the visitor back to.
func (h *Handler) callback(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, h.loginCookie("", -1)) // it is good for once
	a, err := h.attempt(r)
	query := r.URL.Query()
	if err == nil && !hmac.Equal([]byte(query.Get("state")), []byte(a.State)) {
		err = errors.New("the state is another one")
	}
	if err == nil && query.Get("code") == "" {
		err = errors.New("the login server gave no code")
	}
	if err != nil {
		h.log.InfoContext(r.Context(), "dashboard login refused", "error", err)
		h.notAllowed(w)
		return
	}
	d, err := h.o.Broker.Brief(r.Context(), a.Instance)
	var e *broker.Error
	if errors.As(err, &e) && e.Code == broker.NotFound {
		h.notAllowed(w)
		return
	}
	if err == nil {
		err = h.maySee(r.Context(), d, query.Get("code"), a.Verifier)
	}
	switch {
	case errors.Is(err, errNotAllowed):
		h.log.InfoContext(r.Context(), "dashboard login refused", "instance", a.Instance, "error", err)
		h.notAllowed(w)
	case err != nil:
		h.failed(w, r, err)
	default:
		h.begin(w, d.Instance)
	}
}

var errNotAllowed = errors.New("not allowed")

// maySee gets the user's token and asks the platform with it. The error
// wraps errNotAllowed when it says no.
func (h *Handler) maySee(ctx context.Context, d broker.Details, code, verifier string) error {
	client := h.o.OAuth.Client
	if client == nil {
		client = &http.Client{Timeout: 10 * time.Second}
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client)
	token, err := h.config(d.Offering).Exchange(ctx, code, oauth2.VerifierOption(verifier))
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.Response != nil && refused.Response.StatusCode < 500 {
		return fmt.Errorf("%w: the login server did not take the code: %s", errNotAllowed, refused.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("exchange code: %w", err)
	}
	address := strings.ReplaceAll(h.o.OAuth.PermissionsURL, "{instance_id}", url.PathEscape(d.Instance.ID))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("ask for permissions: %w", err)
	}
	token.SetAuthHeader(req)
	req.Header.Set("Accept", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask for permissions: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 400 && res.StatusCode < 500 {
		return fmt.Errorf("%w: the platform answered %s", errNotAllowed, res.Status)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("ask for permissions: the platform answered %s", res.Status)
	}
	var may struct{ Manage, Read bool }
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&may); err != nil {
		return fmt.Errorf("read permissions: %w", err)
	}
	if !may.Manage && !may.Read {
		return fmt.Errorf("%w: the user may neither manage nor read it", errNotAllowed)
	}
	return nil
}

func (h *Handler) notAllowed(w http.ResponseWriter) {
	h.write(w, http.StatusForbidden, "message.html", message{
		Title: "You cannot see this dashboard",
		Text:  "The login was not completed, or your account may not see this service instance.",
		Help:  []string{"Open the dashboard's address of the service instance once more and log in with an account that may manage or read it."},
	})
}
