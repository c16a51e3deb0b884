package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"runtime"
	"time"
)

// hashes is how many are made between two looks at the clock: some tenths of a millisecond.
const hashes = 2000

// token makes a token by hashing for the time that a token costs. It is there to use CPU, as
// a sign-in with a slow password hash does.
func (s *server) token(w http.ResponseWriter, r *http.Request) {
	sum, ok := burn(r.Context(), s.opts.TokenCost)
	if !ok {
		writeError(w, statusLeft, "the client went away")
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"token": hex.EncodeToString(sum[:])})
}

// burn uses so much time of a CPU, which takes longer where others use it, too. It returns
// false if ctx was done first.
func burn(ctx context.Context, cost time.Duration) (sum [sha256.Size]byte, ok bool) {
	runtime.LockOSThread() // The time is counted by thread.
	defer runtime.UnlockOSThread()
	_, _ = rand.Read(sum[:]) // It never fails.
	for until := cpuTime() + cost; cpuTime() < until; {
		if ctx.Err() != nil {
			return sum, false
		}
		for range hashes {
			sum = sha256.Sum256(sum[:])
		}
	}
	return sum, true
}
