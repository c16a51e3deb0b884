package loader

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/admin"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/body"
)

// maxRateBody is the longest body of PUT /rate, in bytes.
const maxRateBody = 1 << 10

// admin has, beside /metrics and /livez, GET and PUT /rate {"rate": 12.5} and GET /summary.
func (l *loader) admin() http.Handler {
	mux := admin.NewMux(l.registry)
	mux.HandleFunc("GET /rate", l.getRate)
	mux.HandleFunc("PUT /rate", l.putRate)
	mux.HandleFunc("GET /summary", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = l.summary().WriteJSON(w) // Who asked may have gone.
	})
	return mux
}

func (l *loader) getRate(w http.ResponseWriter, _ *http.Request) {
	rate := l.pace.get()
	answer(w, http.StatusOK, fmt.Sprintf(`{"rate":%v}`, rate))
}

func (l *loader) putRate(w http.ResponseWriter, r *http.Request) {
	var rate *float64
	if err := body.Read(w, r, maxRateBody, map[string]any{"rate": &rate}); err != nil || rate == nil {
		refuse(w, http.StatusBadRequest, `the body is not {"rate": NUMBER}`)
		return
	}
	if err := checkRate(*rate); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if l.count > 0 {
		refuse(w, http.StatusConflict, "sessions with a --count have no rate")
		return
	}
	if old := l.pace.get(); old != *rate {
		slog.Info("the rate changes", "from", old, "to", *rate)
	}
	l.pace.set(*rate, time.Now())
	l.getRate(w, r)
}

func refuse(w http.ResponseWriter, status int, why string) {
	answer(w, status, fmt.Sprintf(`{"error":%q}`, why))
}

// answer writes JSON.
func answer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body + "\n")) // Who asked may have gone.
}
