module github.com/tidegauge/tidegauge/test/browser

go 1.26.7

replace (
	github.com/tidegauge/tidegauge => ../../
	github.com/tidegauge/tidegauge/test => ../
)

require (
	github.com/chromedp/cdproto v0.159.2
	github.com/chromedp/chromedp v0.23.0
	github.com/tidegauge/tidegauge/test v0.0.0-00010101000000-000000000000
)

require (
	github.com/go-json-experiment/json v1.27.2 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	k8s.io/klog/v2 v2.140.0 // indirect
)
