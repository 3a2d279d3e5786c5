package agent

import "net/http"

// handlePod serves what agents in pods are told.
func (a *Agent) handlePod(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/pristine/keep", func(w http.ResponseWriter, r *http.Request) {
		_, err := decode[struct{}](w, r)
		var kept Pristine
		if err == nil {
			kept, err = a.KeepPristine()
		}
		answer(w, kept, err)
	})
	mux.HandleFunc("POST /v1/pristine/fill", func(w http.ResponseWriter, r *http.Request) {
		p, err := decode[Pristine](w, r)
		if err == nil {
			err = a.FillPristine(p)
		}
		answer(w, struct{}{}, err)
	})
}
