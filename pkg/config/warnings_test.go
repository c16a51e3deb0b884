package config

import (
	"strings"
	"testing"
)

func TestWarningsHaveLineAndPath(t *testing.T) {
	c, err := Parse([]byte("rules:\n- seriesQuery: up\n  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := c.Warnings()
	if len(got) != 1 || got[0].Line != 2 || got[0].Path != "rules[0]" || !strings.HasPrefix(got[0].Text, "makes no metric: ") {
		t.Errorf("got %+v", got)
	}
}
