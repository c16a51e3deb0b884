package player

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxBody is the longest body that is read, in bytes.
const maxBody = 64 << 20

// control serves the control API:
//
//	GET    /_control/requests      the requests that come, and how many pods share them now
//	PUT    /_control/requests      SetRequests, a JSON array of Requests
//	PUT    /_control/usage         SetUsage, a JSON array of Usage
//	PUT    /_control/series/{set}  SetSeries, a JSON array of Series
//	DELETE /_control/series/{set}  SetSeries without series
func (p *Player) control(mux *http.ServeMux) {
	mux.HandleFunc("GET /_control/requests", p.getRequests)
	mux.HandleFunc("PUT /_control/requests", func(w http.ResponseWriter, r *http.Request) { put(w, r, p.SetRequests) })
	mux.HandleFunc("PUT /_control/usage", func(w http.ResponseWriter, r *http.Request) { put(w, r, p.SetUsage) })
	mux.HandleFunc("PUT /_control/series/{set}", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, func(series ...Series) error { return p.SetSeries(r.PathValue("set"), series...) })
	})
	mux.HandleFunc("DELETE /_control/series/{set}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, p.SetSeries(r.PathValue("set")))
	})
}

// put reads a JSON array and gives it to a method of the player.
func put[T any](w http.ResponseWriter, r *http.Request, to func(...T) error) {
	var items []T
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(&items)
	if err == nil {
		err = to(items...)
	}
	answer(w, err)
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// shared are requests with the number of pods that get them.
type shared struct {
	Requests

	Pods int `json:"pods"`
}

func (p *Player) getRequests(w http.ResponseWriter, _ *http.Request) {
	body, err := json.Marshal(p.shared())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}

func (p *Player) shared() []shared {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := []shared{}
	for sc, l := range p.pods.loads {
		l.settle(time.Now())
		requests := Requests{Namespace: sc.namespace, Workload: sc.workload, Pod: sc.pod, PerSecond: l.rate}
		list = append(list, shared{Requests: requests, Pods: len(l.live())})
	}
	slices.SortFunc(list, func(a, b shared) int {
		return strings.Compare(a.Namespace+"/"+a.Workload+"/"+a.Pod, b.Namespace+"/"+b.Workload+"/"+b.Pod)
	})
	return list
}
