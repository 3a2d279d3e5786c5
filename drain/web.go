package drain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"path"
	"strings"
	"time"
)

// searches are what of the log server's API reads logs.
var searches = map[string]bool{
	"facets": true, "field_names": true, "field_values": true, "hits": true, "query": true, "stats_query": true, "stats_query_range": true,
	"stream_field_names": true, "stream_field_values": true, "stream_ids": true, "streams": true, "tail": true,
}

// searchable says whether a path is one of reading logs.
func searchable(p string) bool {
	if name, ok := strings.CutPrefix(p, "/select/logsql/"); ok {
		return searches[name]
	}
	return p == "/select/vmui" || strings.HasPrefix(p, "/select/vmui/") && path.Clean(p) == strings.TrimSuffix(p, "/")
}

// handler serves those who have a login.
func (s *server) handler() http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", s.Search, s.Search
			r.Out.URL.Path, r.Out.URL.RawPath = r.In.URL.Path, ""
			for _, name := range []string{"Authorization", "Accountid", "Projectid"} {
				r.Out.Header.Del(name)
			}
		},
		FlushInterval: -1, // a tail is seen line by line
		Transport:     &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, DisableCompression: true},
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "The log server does not answer.", http.StatusBadGateway)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		as, ok := s.users.login(name, password)
		control := http.NewResponseController(w)
		drain := r.URL.Path == "/drain"
		switch {
		case !ok: // the server reads on before it answers
			_ = control.SetReadDeadline(time.Now().Add(time.Second))
		case drain:
			_ = control.SetReadDeadline(time.Now().Add(bodyLimit))
		}
		if !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="logs"`)
			http.Error(w, "User name and password are needed.", http.StatusUnauthorized)
			return
		}
		ctx, cancel := s.users.while(r.Context(), name, as)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { _ = control.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		switch {
		case drain && r.Method == http.MethodPost:
			s.post(w, r)
		case drain:
			w.Header().Set("Allow", "POST")
			http.Error(w, "Messages come with POST.", http.StatusMethodNotAllowed)
		case searchable(r.URL.Path) && (r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodPost):
			proxy.ServeHTTP(w, r)
		default:
			http.NotFound(w, r)
		}
	})
}

// post gives the messages of a request to the log server, and answers when it has
// stored them.
func (s *server) post(w http.ResponseWriter, r *http.Request) {
	later := func(seconds int, why string) {
		w.Header().Set("Retry-After", fmt.Sprint(seconds))
		http.Error(w, why, http.StatusServiceUnavailable)
	}
	if s.full.Load() {
		later(30, "The disk is full.")
		return
	}
	select {
	case s.posts <- struct{}{}:
		defer func() { <-s.posts }()
	case <-time.After(time.Second):
		later(1, "There are too many requests at once.")
		return
	case <-r.Context().Done():
		return
	}
	body, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		http.Error(w, fmt.Sprintf("The body is longer than %d bytes.", MaxBody), http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		http.Error(w, "The body does not come in time.", http.StatusRequestTimeout)
		return
	}
	messages, err := split(body)
	switch {
	case errors.Is(err, errTooLong):
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := s.deliver(r.Context(), messages); err != nil {
		s.Logger.Info("messages of a request were not stored", "error", err)
		later(1, "The log server does not take messages.")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// deliver returns nil when the log server has stored all of the messages: it closes
// the connection properly after that, and breaks it when it does not take them.
func (s *server) deliver(ctx context.Context, messages [][]byte) error {
	up, err := s.dial(ctx, time.Second)
	if err != nil {
		return err
	}
	defer up.Close()
	stop := context.AfterFunc(ctx, func() { _ = up.Close() })
	defer stop()
	_ = up.SetDeadline(time.Now().Add(answerLimit))
	var frames []byte
	for _, m := range messages {
		frames = appendFrame(frames, m)
	}
	if _, err := up.Write(frames); err != nil {
		return err
	}
	if err := up.CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, up)
	return err
}
