package orders

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// browserVariable makes it a failure, if it is not empty, that there is no browser.
const browserVariable = "TIDEGAUGE_REQUIRE_BROWSER"

// browser is a Chromium without a window, which is told what to do over two pipes, see
// https://chromedevtools.github.io/devtools-protocol/
type browser struct {
	commands io.Writer
	answers  *bufio.Reader
	last     int
	session  string
	// complaints are what the page's console and the browser say of errors.
	complaints []string
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil && os.Getenv(browserVariable) != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
	toBrowser, commands, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, fromBrowser, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--remote-debugging-pipe", "--user-data-dir="+t.TempDir())
	cmd.ExtraFiles = []*os.File{toBrowser, fromBrowser} // It has them as 3 and 4.
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = toBrowser.Close(), fromBrowser.Close()
	b := &browser{commands: commands, answers: bufio.NewReader(answers)}
	t.Cleanup(func() {
		b.call(t, "Browser.close", map[string]any{}, nil)
		_, _ = cmd.Wait(), commands.Close()
		_ = answers.Close()
	})
	return b
}

// call calls a method and reads its result, and what comes before it.
func (b *browser) call(t *testing.T, method string, params map[string]any, result any) {
	t.Helper()
	b.last++
	command := map[string]any{"id": b.last, "method": method, "params": params}
	if b.session != "" && !strings.HasPrefix(method, "Browser.") {
		command["sessionId"] = b.session
	}
	text, err := json.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.commands.Write(append(text, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		text, err := b.answers.ReadBytes(0)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		var answer struct {
			ID     int
			Method string
			Params json.RawMessage
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(text[:len(text)-1], &answer); err != nil {
			t.Fatal(err)
		}
		switch {
		case answer.Method == "Log.entryAdded" || answer.Method == "Runtime.exceptionThrown":
			b.complaints = append(b.complaints, string(answer.Params))
		case answer.ID != b.last:
		case answer.Error != nil:
			t.Fatalf("%s: %s", method, answer.Error.Message)
		default:
			if result != nil && json.Unmarshal(answer.Result, result) != nil {
				t.Fatalf("%s: %s", method, answer.Result)
			}
			return
		}
	}
}

// open opens a page on a screen of a width.
func (b *browser) open(t *testing.T, url string, width int) {
	t.Helper()
	var made struct{ TargetID string }
	b.call(t, "Target.createTarget", map[string]any{"url": "about:blank"}, &made)
	var attached struct{ SessionID string }
	b.call(t, "Target.attachToTarget", map[string]any{"targetId": made.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	b.call(t, "Log.enable", nil, nil)
	b.call(t, "Runtime.enable", nil, nil)
	b.call(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": true}, nil)
	b.call(t, "Page.navigate", map[string]any{"url": url}, nil)
}

// evaluate returns the text of an expression on the page.
func (b *browser) evaluate(t *testing.T, expression string) string {
	t.Helper()
	var got struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.call(t, "Runtime.evaluate", map[string]any{"expression": expression}, &got)
	if got.ExceptionDetails != nil {
		t.Fatalf("%s: %s", expression, got.ExceptionDetails)
	}
	return fmt.Sprint(got.Result.Value)
}

// want waits until an expression has a value.
func (b *browser) want(t *testing.T, expression, want string) {
	t.Helper()
	eventually(t, expression, func() error {
		if got := b.evaluate(t, expression); got != want {
			return fmt.Errorf("is %q, want %q", got, want)
		}
		return nil
	})
}

func TestPageInBrowser(t *testing.T) {
	b := newBed(t)
	web := b.web(t)
	page := startBrowser(t)
	page.open(t, web.http, 320)
	page.want(t, `document.readyState + document.querySelectorAll("#orders li").length`, "complete0")

	// As a user does it: the browser's own checks of the fields count.
	const evil = `<img src=x onerror="document.title='stolen'"> & <b>tea</b>`
	place := func(item string, quantity int) {
		page.evaluate(t, fmt.Sprintf(`{ const f = document.querySelector("#place").elements; f.namedItem("item").value = %q;
			f.namedItem("quantity").value = %d; document.querySelector("#place button").click(); }`, item, quantity))
	}
	place(evil, 3)
	page.want(t, `document.querySelector("#orders li .item")?.firstChild.data`, evil)
	page.want(t, `document.querySelector("#said").textContent`, "Placed.")
	page.want(t, `document.querySelectorAll("#orders img, #orders b").length + document.title`, "0Orders")

	page.evaluate(t, `{ const li = document.querySelector("#orders li"); li.querySelector("input").value = 17; li.querySelector("button").click(); }`)
	page.want(t, `document.querySelector("#said").textContent`, "Changed.")
	page.want(t, `document.querySelector("#orders li input").value`, "17")

	for range 25 {
		place(strings.Repeat("x", 200), 1)
		page.want(t, `String(document.querySelector("#place button").disabled)`, "false")
	}
	page.want(t, `document.querySelectorAll("#orders li").length`, "20")
	page.evaluate(t, `document.querySelector("#more").click()`)
	page.want(t, `document.querySelectorAll("#orders li").length + String(document.querySelector("#more").hidden)`, "26true")
	// Nothing is wider than the smallest phone.
	page.want(t, `String(document.documentElement.scrollWidth <= 320)`, "true")
	web.wantCounts(t, 26, 0)

	b.worker(t)
	web.wantCounts(t, 26, 26)
	page.evaluate(t, `document.querySelector("#orders li button").click()`)
	page.want(t, `document.querySelector("#said").textContent`, "id: the order is processed and cannot be changed")
	page.want(t, `document.querySelector("#said").className`, "bad")

	for _, said := range page.complaints {
		if !strings.Contains(said, "409") && !strings.Contains(said, "favicon") {
			t.Errorf("the browser complains: %s", said)
		}
	}
}
