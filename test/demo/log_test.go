package demo

import (
	"log" //nolint:depguard // what net/http writes to
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// What libraries say goes to the log of the run, and not over the screen: client-go by klog, and
// the servers of net/http by the standard logger.
func TestLibrariesWriteToTheLogOfTheRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), logFileName)
	l, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	klog.Background().Info("said by client-go")
	log.Print("said by net/http")
	l.Close()
	log.Print("said too late")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for want, there := range map[string]bool{"said by client-go": true, "said by net/http": true, "said too late": false} {
		if strings.Contains(string(text), want) != there {
			t.Errorf("the log has %q: %v, want %v:\n%s", want, !there, there, text)
		}
	}
}
