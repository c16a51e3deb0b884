package demo

import (
	"strings"
	"testing"
)

func TestWorkedOnceEach(t *testing.T) {
	for name, test := range map[string]struct {
		worked worked
		want   string // an error; empty for none
	}{
		"each once":               {worked{processed: 300, counting: 10}, ""},
		"delivered twice":         {worked{processed: 300, duplicates: 7, counting: 10}, ""},
		"processed twice":         {worked{processed: 301, counting: 10}, "the workers processed 301 orders: 300 were placed"},
		"one that nobody counted": {worked{processed: 299, counting: 10}, "the workers processed 299 orders only: 300 were placed"},
		"a worker began anew":     {worked{processed: 250, counting: 10, again: 1}, ""},
		"twice, and began anew":   {worked{processed: 301, counting: 10, again: 1}, "301 orders"},
		"a worker has left":       {worked{processed: 250, counting: 9}, ""},
		"poison":                  {worked{processed: 300, poison: 1, counting: 10}, "the workers took 1 messages for poison"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.worked.check(300)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got the error %v, want %q", err, test.want)
			}
		})
	}
}
