// Package flags reads flags from the command line and from the environment.
package flags

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

// Error is one of the command line or of the environment.
type Error struct{ err error }

func (e *Error) Error() string { return e.err.Error() }

func (e *Error) Unwrap() error { return e.err }

// Wrong is an Error that says what is wrong with a flag.
func Wrong(name, format string, args ...any) error {
	return &Error{fmt.Errorf("--"+name+": "+format, args...)}
}

// Parse sets the flags. One that args do not have is taken from the environment: that of
// --drain-idle from ORDERS_DRAIN_IDLE. Errors are an Error, or flag.ErrHelp.
func Parse(fs *flag.FlagSet, args []string) error {
	fs.Init(fs.Name(), flag.ContinueOnError)
	var errs []error
	fs.VisitAll(func(f *flag.Flag) {
		name := "ORDERS_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if text, ok := os.LookupEnv(name); ok {
			if err := f.Value.Set(text); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	})
	if len(errs) > 0 {
		return &Error{errors.Join(errs...)}
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return &Error{err}
	}
	if fs.NArg() > 0 {
		return &Error{fmt.Errorf("what is %q?", fs.Arg(0))}
	}
	return nil
}
