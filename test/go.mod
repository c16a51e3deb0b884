module github.com/tidegauge/tidegauge/test

go 1.26.0

replace github.com/tidegauge/tidegauge => ../
