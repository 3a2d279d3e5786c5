// Package dashboard serves a page for every service instance: what it is, how
// its members are, what they use, its bindings and last operations, and the end
// of its servers' logs; no credentials. dashboard_url leads there.
//
// A page opens by a signed link, which is exchanged at once for a session in a
// cookie, so that the token leaves the address bar; or, where a login server is
// configured, by a login with OAuth 2.0 (authorization code with PKCE) and the
// question to the platform whether the user may see the instance. Everything
// else below /dashboard/ is answered 403, whether it exists or not.
//
// Pages are HTML without scripts, and their Content-Security-Policy allows
// nothing but their own style sheet. Everything may be used concurrently.
package dashboard

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

// Options is what a Handler needs.
type Options struct {
	Links  *Links
	Broker Broker
	// Inspect looks into a claimed group; provisioner.Pool has it. Nil shows neither
	// members nor logs.
	Inspect func(ctx context.Context, groupID string) (provisioner.Inspection, error)
	OAuth   *OAuth       // nil: no login, links carry a token
	Logger  *slog.Logger // default slog.Default()
}

// Broker is what is read of broker.Broker.
type Broker interface {
	// Brief is enough to decide who may see the instance, and cheap: anybody can ask.
	Brief(ctx context.Context, id string) (broker.Details, error)
	// Details is for those who may.
	Details(ctx context.Context, id string) (broker.Details, error)
}

// Handler serves everything below /dashboard/.
type Handler struct {
	o     Options
	log   *slog.Logger
	looks chan struct{} // a place for each look into a group at a time
}

// New makes the handler.
func New(o Options) (*Handler, error) {
	if o.Links == nil || o.Broker == nil {
		return nil, errors.New("dashboard: Links and Broker must be given")
	}
	if o.Links.plain != (o.OAuth != nil) {
		return nil, errors.New("dashboard: links must be for a login exactly when there is a login server")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Handler{o: o, log: o.Logger, looks: make(chan struct{}, maxLooks)}, nil
}

const (
	sessionCookie = "remuda_dashboard"
	loginCookie   = "remuda_login"
)

// inspectTimeout bounds what a page waits for a look into its group, and
// maxLooks how many there are at a time, however many pages are asked for.
const (
	inspectTimeout = 5 * time.Second
	maxLooks       = 8
)

// ServeHTTP answers GET and HEAD.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", contentSecurityPolicy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Robots-Tag", "noindex, nofollow, noarchive")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	path := r.URL.EscapedPath()
	if path == pathPrefix+"callback" && h.o.OAuth != nil {
		h.callback(w, r)
		return
	}
	escaped, ok := strings.CutPrefix(path, instancePath)
	id, err := url.PathUnescape(escaped)
	if !ok || err != nil || id == "" || strings.Contains(id, "/") {
		h.forbidden(w)
		return
	}
	h.instance(w, r, id)
}

// instance lets visitors in who have a session, a token, or can log in.
func (h *Handler) instance(w http.ResponseWriter, r *http.Request, id string) {
	d, err := h.o.Broker.Brief(r.Context(), id)
	var e *broker.Error
	switch {
	case errors.As(err, &e) && e.Code == broker.NotFound:
		h.forbidden(w)
		return
	case err != nil:
		h.failed(w, r, err)
		return
	}
	now := h.o.Links.now()
	if token := r.URL.Query().Get("token"); token != "" {
		if !h.o.Links.good(forLink, token, d.Instance, now) {
			h.forbidden(w)
			return
		}
		h.begin(w, d.Instance)
		return
	}
	for _, c := range r.CookiesNamed(sessionCookie) {
		if h.o.Links.good(forSession, c.Value, d.Instance, now) {
			h.page(w, r, id)
			return
		}
	}
	if h.o.OAuth != nil {
		h.login(w, r, d)
		return
	}
	h.forbidden(w)
}

// begin starts a session and leads to the page, without anything secret in its
// address.
func (h *Handler) begin(w http.ResponseWriter, inst store.Instance) {
	expiry := h.o.Links.now().Add(sessionLifetime)
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: h.o.Links.token(forSession, inst, expiry), Path: h.o.Links.path(inst.ID),
		MaxAge: int(sessionLifetime.Seconds()), HttpOnly: true, Secure: h.o.Links.secure(), SameSite: http.SameSiteLaxMode,
	})
	w.Header().Set("Location", h.o.Links.path(inst.ID))
	w.WriteHeader(http.StatusSeeOther)
}

func (h *Handler) page(w http.ResponseWriter, r *http.Request, id string) {
	d, err := h.o.Broker.Details(r.Context(), id)
	if err != nil {
		h.failed(w, r, err)
		return
	}
	seen, blind := h.look(r.Context(), d.Instance)
	view := newView(d, seen, h.o.Links.now())
	view.Blind = blind
	h.write(w, http.StatusOK, "page.html", view)
}

// look inspects the instance's group. blind says that there is something that
// could not be seen.
func (h *Handler) look(ctx context.Context, inst store.Instance) (seen provisioner.Inspection, blind bool) {
	if h.o.Inspect == nil || inst.GroupID == "" || inst.State == store.InstanceFailed {
		return seen, false
	}
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	var err error
	select {
	case h.looks <- struct{}{}:
		defer func() { <-h.looks }()
		seen, err = h.o.Inspect(ctx, inst.GroupID)
	case <-ctx.Done():
		err = ctx.Err()
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return seen, false
	case err != nil:
		h.log.WarnContext(ctx, "group cannot be inspected", "instance", inst.ID, "error", err)
	}
	return seen, err != nil
}

// forbidden is the answer to everything that is not allowed. It says how to get
// a link that works, and nothing of what exists.
func (h *Handler) forbidden(w http.ResponseWriter) {
	h.write(w, http.StatusForbidden, "message.html", message{
		Title: "This link does not open a dashboard",
		Text:  "It has expired, it is not complete, or the service instance is deleted.",
		Help: []string{
			"Ask your platform for the service instance once more: it gets a fresh link from the broker.",
			"An operator of the broker gets a link that is good for an hour with “remuda dashboard” and the id of the instance.",
		},
	})
}

func (h *Handler) failed(w http.ResponseWriter, r *http.Request, err error) {
	h.log.ErrorContext(r.Context(), "dashboard failed", "error", err)
	h.write(w, http.StatusServiceUnavailable, "message.html", message{
		Title: "The dashboard cannot be shown now", Text: "Something that it needs does not answer. Try again in a moment.",
	})
}

func (h *Handler) write(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil { // a program error
		h.log.Error("write page", "template", name, "error", err)
		status, b = http.StatusInternalServerError, *bytes.NewBufferString("The page could not be written.")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // nobody is left to tell
}
