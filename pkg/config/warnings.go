package config

import "errors"

// Warnings are what in the file is allowed and cannot work, in the order of its lines.
func (c *Config) Warnings() []Fault {
	var warnings FaultsError
	for _, text := range c.Compiled.Warnings {
		warnings = append(warnings, faultsOf(errors.New(text), "")...)
	}
	return warnings
}
