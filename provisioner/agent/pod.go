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
	mux.HandleFunc("POST /v1/identity", func(w http.ResponseWriter, r *http.Request) {
		i, err := decode[Identity](w, r)
		if err == nil {
			err = a.SetIdentity(i)
		}
		answer(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /v1/doors/bind", func(w http.ResponseWriter, r *http.Request) {
		d, err := decode[DoorsRequest](w, r)
		if err == nil {
			err = a.BindDoors(d)
		}
		answer(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /v1/way", func(w http.ResponseWriter, r *http.Request) {
		way, err := decode[Way](w, r)
		if err == nil {
			err = a.SetWay(way)
		}
		answer(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /v1/hosts", func(w http.ResponseWriter, r *http.Request) {
		h, err := decode[HostsRequest](w, r)
		if err == nil {
			err = a.SetHosts(h)
		}
		answer(w, struct{}{}, err)
	})
}
