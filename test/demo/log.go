package demo

import (
	"io"
	"log" //nolint:depguard // what net/http writes to
	"os"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// libraries is where the log of the libraries goes, which is one for the process: to
// the demo that started last.
var libraries = &redirected{to: io.Discard}

// divertLibraries keeps client-go, and net/http's servers, from writing their log over the screen.
var divertLibraries = sync.OnceFunc(func() {
	log.SetOutput(libraries)
	klog.SetLogger(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(libraries))))
})

// redirected is a writer whose target may change while it is written to.
type redirected struct {
	mu sync.Mutex
	to io.Writer
}

func (r *redirected) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.to.Write(p)
}

func (r *redirected) redirect(to io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
}

// logFile is the log of a run.
type logFile struct {
	file   *os.File
	logger logr.Logger
}

// openLog opens a file for the log of a run, and of the libraries.
func openLog(path string) (*logFile, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	divertLibraries()
	libraries.redirect(file)
	return &logFile{file, textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(file)))}, nil
}

// Close ends the log. What the libraries still say goes nowhere.
func (l *logFile) Close() {
	libraries.redirect(io.Discard)
	_ = l.file.Close() // Nothing that was written here is needed any more.
}
