package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// Exit codes of check and query, beside 0. Serving ends with exitWrong, whatever the cause.
const (
	// exitWrong: something is wrong with what was asked about.
	exitWrong = 1
	// exitUsage: the command line is wrong, or a file cannot be read.
	exitUsage = 2
)

// exitError ends the program with a code. Without an error it has been said what is wrong.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exitCode(err error) int {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return exitWrong
}

// usage is an error of the command line; nil if err is.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitUsage, err}
}

// usageErrors has the errors of a command's flags and arguments end with exitUsage.
func usageErrors(c *cobra.Command) {
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	if args := c.Args; args != nil {
		c.Args = func(cmd *cobra.Command, given []string) error { return usage(args(cmd, given)) }
	}
}
