package fakeaws

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// controlPath starts the paths of the control API, which no AWS client uses:
//
//	GET    /_control/counts       Counts
//	DELETE /_control/counts       ResetCounts
//	GET    /_control/faults       the faults in force, by their ID
//	POST   /_control/faults       Fault; answers {"id": 1}
//	DELETE /_control/faults       ClearFaults
//	DELETE /_control/faults/{id}  clears one fault
//	POST   /_control/metrics      PutMetric, a JSON array of Metric
//	GET    /_control/settings     {"publishInterval": "1m0s"}
//	PUT    /_control/settings     SetPublishInterval; answers as GET
const controlPath = "/_control/"

type settings struct {
	PublishInterval string `json:"publishInterval"`
}

func (s *Server) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_control/counts", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Counts()) })
	mux.HandleFunc("DELETE /_control/counts", func(http.ResponseWriter, *http.Request) { s.ResetCounts() })
	mux.HandleFunc("GET /_control/faults", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.faults.List()) })
	mux.HandleFunc("POST /_control/faults", s.postFault)
	mux.HandleFunc("DELETE /_control/faults", func(http.ResponseWriter, *http.Request) { s.ClearFaults() })
	mux.HandleFunc("DELETE /_control/faults/{id}", s.deleteFault)
	mux.HandleFunc("POST /_control/metrics", s.postMetrics)
	mux.HandleFunc("GET /_control/settings", s.getSettings)
	mux.HandleFunc("PUT /_control/settings", s.putSettings)
	return mux
}

func (s *Server) postFault(w http.ResponseWriter, r *http.Request) {
	var f Fault
	if readJSON(w, r, &f) {
		writeJSON(w, map[string]int{"id": s.faults.Add(f)})
	}
}

func (s *Server) deleteFault(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		http.Error(w, fmt.Sprintf("fault ID: %v", err), http.StatusBadRequest)
		return
	}
	s.faults.Remove(id)
}

func (s *Server) postMetrics(w http.ResponseWriter, r *http.Request) {
	var metrics []Metric
	if readJSON(w, r, &metrics) {
		s.PutMetric(metrics...)
	}
}

func (s *Server) getSettings(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, settings{PublishInterval: s.publish.interval().String()})
}

func (s *Server) putSettings(w http.ResponseWriter, r *http.Request) {
	var wanted settings
	if !readJSON(w, r, &wanted) {
		return
	}
	interval, err := time.ParseDuration(wanted.PublishInterval)
	if err == nil {
		err = s.SetPublishInterval(interval)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("publishInterval: %v", err), http.StatusBadRequest)
		return
	}
	s.getSettings(w, r)
}

// readJSON reads a body, or answers why it cannot be read and returns false.
func readJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = decodeStrict(body, into)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func decodeStrict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("reading JSON: %w", err)
	}
	return nil
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}
