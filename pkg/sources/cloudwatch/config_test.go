package cloudwatch

import (
	"strings"
	"testing"
	"time"
)

func TestConfigValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the default is not valid: %v", err)
	}
	for _, test := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Region = "Frankfurt" }, `region: "Frankfurt" is not`},
		{func(c *Config) { c.RoleSessionName = "" }, "roleSessionName: "},
		{func(c *Config) { c.RoleSessionName = "a b" }, "roleSessionName: "},
		{func(c *Config) { c.CallTimeout = 0 }, "callTimeout: 0s"},
		{func(c *Config) { c.CallTimeout = time.Hour }, "callTimeout: 1h0m0s"},
		{func(c *Config) { c.MaxCalls = 0 }, "maxCalls: 0"},
		{func(c *Config) { c.MaxCalls = 51 }, "maxCalls: 51"},
		{func(c *Config) { c.MaxCallsPerSecond = 0 }, "maxCallsPerSecond: 0"},
		{func(c *Config) { c.MaxCallsPerSecond = 501 }, "maxCallsPerSecond: 501"},
		{func(c *Config) { c.Settle = -time.Second }, "settle: -1s"},
		{func(c *Config) { c.Roles = Roles{{}} }, "roles[0].namespaces: there are none"},
		{func(c *Config) { c.Settle = 16 * time.Minute }, "settle: 16m0s"},
	} {
		c := DefaultConfig()
		test.change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("the error is %v, want one that starts with %q", err, test.want)
		}
	}
}

func TestNewRefusesABadConfig(t *testing.T) {
	if _, err := New(t.Context(), Config{}); err == nil {
		t.Error("the zero value was taken")
	}
}
