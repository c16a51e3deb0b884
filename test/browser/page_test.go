package browser

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/tidegauge/tidegauge/test/demo/page"
	"github.com/tidegauge/tidegauge/test/demo/page/madeup"
)

// start is when the made-up story began.
var start = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// played is a page that was told the story up to a time.
func played(t *testing.T, until time.Duration) *page.Page {
	t.Helper()
	p := page.New(nil)
	for at := time.Duration(0); at <= until; at += page.Interval {
		if madeup.Known(at) {
			add(t, p, madeup.At(start, at))
		}
	}
	return p
}

func add(t *testing.T, p *page.Page, s page.Snapshot) {
	t.Helper()
	if err := p.Add(s); err != nil {
		t.Fatal(err)
	}
}

func serve(t *testing.T, p *page.Page) string {
	t.Helper()
	s := httptest.NewServer(p.Handler())
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// whileDown is a time at which Prometheus is down.
const whileDown = 350 * time.Second

func TestPageLooksRight(t *testing.T) {
	url := serve(t, played(t, whileDown))
	for _, width := range []int64{360, 800, 1440, 1920} {
		for _, scheme := range []string{"light", "dark"} {
			name := fmt.Sprintf("%d-%s", width, scheme)
			t.Run(name, func(t *testing.T) {
				b := open(t, url, view{width, 900, scheme})
				b.await("the plots", plotsDrawn)
				shot := b.picture(name)
				b.checkWords()
				b.checkFit(width)
				b.checkContrast()
				b.checkColours(shot)
				b.noFaults()
			})
		}
	}
}

const plotsDrawn = `document.querySelectorAll("#grid .series").length > 12 && document.querySelector("#link").dataset.state === "live"`

func (b *tab) picture(name string) image.Image {
	b.Helper()
	shot, err := png.Decode(bytes.NewReader(b.screenshot(name)))
	if err != nil {
		b.Fatal(err)
	}
	return shot
}

// checkWords looks for what the page has to say.
func (b *tab) checkWords() {
	b.Helper()
	for selector, want := range map[string][]string{
		"#phase":        {"Prometheus is stopped for a minute"},
		"#alerts":       {"Prometheus is down since ", "connection refused"},
		"#parts-list":   {"adapter", "up", "Prometheus", "down since", "load balancer", "control plane"},
		"#hpas-list":    {"orders/web", "It holds 3", "ScalingActive False", "orders/worker", "TooManyReplicas"},
		"#metrics-rows": {"orders-queue-depth", "cloudwatch eu-central-1", "http_requests_per_second", "failing since", "no value"},
	} {
		text := b.text(selector)
		for _, w := range want {
			if !strings.Contains(text, w) {
				b.Errorf("%s does not say %q: %s", selector, w, text)
			}
		}
	}
	served := eval[string](b, `document.querySelector('[data-plot="requests"]').getAttribute("aria-label")`)
	if !strings.Contains(served, "served not known, asked 25") {
		b.Errorf("the plot of requests says %q", served)
	}
}

// checkFit fails if anything is wider than the window, or lies over the edge.
func (b *tab) checkFit(width int64) {
	b.Helper()
	over := eval[[]string](b, `[...document.querySelectorAll("body *")].filter((e) => {
		const box = e.getBoundingClientRect();
		return box.width > 0 && !e.closest(".hidden, .skip, thead, svg") && (box.right > innerWidth + 1 || box.left < -1);
	}).map((e) => e.outerHTML.slice(0, 120))`)
	for _, e := range over {
		b.Errorf("wider than the window: %s", e)
	}
	if scroll := eval[int64](b, "document.documentElement.scrollWidth"); scroll > width {
		b.Errorf("the page is %d px wide in a window of %d", scroll, width)
	}
}

// checkContrast fails for text with less than the contrast of level AA
// (https://www.w3.org/TR/WCAG22/#contrast-minimum).
func (b *tab) checkContrast() {
	b.Helper()
	for _, w := range eval[[]string](b, contrast+"; weak") {
		b.Errorf("too little contrast: %s", w)
	}
	if texts := eval[int](b, contrast+"; texts"); texts < 100 {
		b.Errorf("only %d texts were looked at", texts)
	}
}

const contrast = `var weak = [], texts = 0; {
	const parse = (c) => { const n = c.match(/[\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
	const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
	const behind = (e) => {
		const layers = [];
		for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
		return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
	};
	const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
	for (const e of document.querySelectorAll("body *")) {
		const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
		if (!own || e.closest("noscript, .hidden, .skip, [hidden]") || e.getClientRects().length === 0) continue;
		const style = getComputedStyle(e), back = behind(e);
		const ink = over(parse(e instanceof SVGElement ? style.fill : style.color), back);
		const [a, b] = [light(ink), light(back)].sort((x, y) => y - x);
		const ratio = (a + .05) / (b + .05);
		texts++;
		if (ratio < 4.5) weak.push(ratio.toFixed(2) + " " + e.outerHTML.slice(0, 120));
	}
}`

// drawn is a series as the browser draws it.
type drawn struct {
	Plot, Series             string
	Stroke                   string
	Left, Top, Right, Bottom int
}

// checkColours fails if a series that has points leaves no pixel of its colour in its plot.
func (b *tab) checkColours(shot image.Image) {
	b.Helper()
	all := eval[[]drawn](b, `[...document.querySelectorAll("#grid g[data-series] path.series:first-of-type, #grid g[data-series] .fill + path.series")].map((e) => {
		const box = e.ownerSVGElement.getBoundingClientRect();
		return {Plot: e.ownerSVGElement.dataset.plot, Series: e.parentNode.dataset.series, Stroke: getComputedStyle(e).stroke,
			Left: Math.round(box.left + scrollX), Top: Math.round(box.top + scrollY), Right: Math.round(box.right + scrollX), Bottom: Math.round(box.bottom + scrollY)};
	})`)
	plots := map[string]bool{}
	for _, d := range all {
		plots[d.Plot] = true
		if n := countLike(b, shot, d); n < 20 {
			b.Errorf("%s: %d pixels have the colour %s of %q", d.Plot, n, d.Stroke, d.Series)
		}
	}
	for _, want := range []string{"requests", "latency", "errors", "web", "queue", "worker"} {
		if !plots[want] {
			b.Errorf("the plot %q has no series", want)
		}
	}
}

// near is how far each part of a colour may be off, for lines that are thinner than a pixel.
const near = 48

func countLike(b *tab, shot image.Image, d drawn) int {
	b.Helper()
	var red, green, blue int
	if _, err := fmt.Sscanf(d.Stroke, "rgb(%d, %d, %d)", &red, &green, &blue); err != nil {
		b.Fatalf("%q: %v", d.Stroke, err)
	}
	off := func(a uint8, b int) bool { return int(a) > b+near || int(a) < b-near }
	n := 0
	for y := d.Top; y < d.Bottom; y++ {
		for x := d.Left; x < d.Right; x++ {
			c := color.NRGBAModel.Convert(shot.At(x, y)).(color.NRGBA)
			if !off(c.R, red) && !off(c.G, green) && !off(c.B, blue) {
				n++
			}
		}
	}
	return n
}

// TestPointerAndKeysReadThePlots reads the past by the mouse, and by the slider's keys.
func TestPointerAndKeysReadThePlots(t *testing.T) {
	b := open(t, serve(t, played(t, whileDown)), view{1440, 900, "light"})
	b.await("the plots", plotsDrawn)
	if got := b.text("#reading"); got != "values of now" {
		t.Errorf("at first: %q", got)
	}
	at := eval[[]float64](b, `(() => { const box = document.querySelector('[data-plot="queue"]').getBoundingClientRect(); return [box.left + box.width * .8, box.top + 40]; })()`)
	b.do(chromedp.MouseEvent(chromedp.MouseMoved, at[0], at[1]))
	b.await("the past by the mouse", `document.querySelector("#reading").innerText.includes("before now")`)
	b.await("a mark in every plot", `document.querySelectorAll("#grid .mark").length === document.querySelectorAll("#grid .draw").length`)
	b.do(chromedp.MouseEvent(chromedp.MouseMoved, 5, 5))
	b.await("now", `document.querySelector("#reading").innerText === "values of now"`)

	b.do(chromedp.Focus("#cursor"), chromedp.KeyEvent(strings.Repeat(kb.ArrowLeft, 40)))
	b.await("the past by the keys", `document.querySelector("#reading").innerText.includes("40 s before now")`)
	if got := eval[string](b, `document.querySelector("#cursor").getAttribute("aria-valuetext")`); !strings.Contains(got, "40 s before now") {
		t.Errorf("the slider says %q", got)
	}
	// Then Prometheus was there.
	if got := eval[string](b, `document.querySelector('[data-plot="requests"]').getAttribute("aria-label")`); strings.Contains(got, "not known") {
		t.Errorf("40 s ago: %s", got)
	}
	b.do(chromedp.KeyEvent(kb.Escape))
	b.await("now", `document.querySelector("#reading").innerText === "values of now"`)

	b.do(chromedp.Focus(`#spans input[value="600"]`), chromedp.KeyEvent(kb.ArrowLeft))
	b.await("two minutes", `document.querySelector("#cursor").max === "120"`)
	b.noFaults()
}

// TestGapIsShownAsGap looks for the pieces of a line: a gap in the snapshots, and Prometheus
// down at the end, where nothing is drawn.
func TestGapIsShownAsGap(t *testing.T) {
	b := open(t, serve(t, played(t, whileDown)), view{800, 900, "light"})
	b.await("the plots", plotsDrawn)
	pieces := func(plot, series string) int {
		return eval[int](b, fmt.Sprintf(`document.querySelectorAll('[data-plot=%q] [data-series=%q] path.series').length`, plot, series))
	}
	if got := pieces("queue", "visible"); got != 2 {
		t.Errorf("the depth has %d pieces, want 2", got)
	}
	ends := eval[[]float64](b, `["served", "asked"].map((name) => document.querySelector('[data-plot="requests"] [data-series="' + name + '"]').getBBox()).map((box) => box.x + box.width)`)
	if ends[0] > ends[1]-20 {
		t.Errorf("served ends at %.0f, where nobody knows it, and asked at %.0f", ends[0], ends[1])
	}
}

// TestNothingKnownIsNoZero shows a snapshot in which nothing is known.
func TestNothingKnownIsNoZero(t *testing.T) {
	p := page.New(nil)
	for i := range 5 {
		add(t, p, page.Snapshot{Time: start.Add(time.Duration(i) * time.Second), Parts: []page.Part{{Name: "adapter"}}})
	}
	b := open(t, serve(t, p), view{800, 900, "dark"})
	b.await("the page", `document.querySelector("#link").dataset.state === "live" && document.querySelector("#parts-list li") !== null`)
	for _, value := range eval[[]string](b, `[...document.querySelectorAll("#grid dd")].map((e) => e.innerText)`) {
		if value != "–" {
			t.Errorf("a plot says %q", value)
		}
	}
	if n := eval[int](b, `document.querySelectorAll("#grid path.series:not(.key *)").length`); n != 0 {
		t.Errorf("%d lines are drawn", n)
	}
	for selector, want := range map[string]string{
		"#parts-list": "not known yet", "#metrics": "It knows no metric yet.", "#hpas-list": "No HPA is known yet.", "#phase": "has not begun",
	} {
		if got := b.text(selector); !strings.Contains(got, want) {
			t.Errorf("%s says %q, want %q", selector, got, want)
		}
	}
	b.noFaults()
}

// TestConnectionLostIsToldAndMended ends the server, and begins another at its address.
func TestConnectionLostIsToldAndMended(t *testing.T) {
	first := httptest.NewServer(played(t, 100*time.Second).Handler())
	address := first.Listener.Addr().String()
	b := open(t, first.URL, view{800, 900, "light"})
	b.await("the plots", plotsDrawn)
	first.CloseClientConnections()
	first.Close()
	b.await("the loss", `document.querySelector("#link").dataset.state === "lost" && document.querySelector("#alerts").innerText.includes("The connection was lost at ")`)
	if got := b.text("#phase"); !strings.Contains(got, "25 requests a second") {
		t.Errorf("what was known is gone: %q", got)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	second := httptest.NewUnstartedServer(played(t, 230*time.Second).Handler())
	_ = second.Listener.Close()
	second.Listener = listener
	second.Start()
	t.Cleanup(func() {
		second.CloseClientConnections()
		second.Close()
	})
	b.await("the return", `document.querySelector("#link").dataset.state === "live" && document.querySelector("#alerts").innerText === "" && document.querySelector("#phase").innerText.includes("burst of orders")`)
}

// TestSnapshotsFollow adds snapshots while the page is open. The live regions are written
// only when they have something new to say.
func TestSnapshotsFollow(t *testing.T) {
	p := played(t, 190*time.Second)
	b := open(t, serve(t, p), view{800, 900, "light"})
	b.await("the plots", plotsDrawn)
	eval[bool](b, `window.said = []; new MutationObserver((all) => { for (const m of all) if (m.target.id === "phase") said.push(m.target.innerText); }).observe(document.querySelector("#phase"), {childList: true}); true`)
	for at := 191 * time.Second; at <= 205*time.Second; at += time.Second {
		add(t, p, madeup.At(start, at))
		b.await("the snapshot", fmt.Sprintf(`latest && Date.parse(latest.time) === %d`, start.Add(at).UnixMilli()))
	}
	if said := eval[[]string](b, "said"); len(said) != 1 || !strings.Contains(said[0], "A burst of orders") {
		t.Errorf("the phase was told %d times: %q", len(said), said)
	}
	b.noFaults()
}

// TestReducedMotion looks for anything that moves by itself, although nobody wants it.
func TestReducedMotion(t *testing.T) {
	b := open(t, serve(t, played(t, 100*time.Second)), view{800, 900, "light"})
	b.await("the plots", plotsDrawn)
	moving := eval[[]string](b, `[...document.querySelectorAll("*")].filter((e) => { const s = getComputedStyle(e); return parseFloat(s.transitionDuration) > 0 || s.animationName !== "none"; }).map((e) => e.outerHTML.slice(0, 80))`)
	for _, e := range moving {
		t.Errorf("it moves: %s", e)
	}
}
