module github.com/tidegauge/tidegauge

go 1.26.0

