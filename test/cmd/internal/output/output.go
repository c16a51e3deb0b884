// Package output has the flag of the commands that print a table or JSON.
package output

import "fmt"

// JSON is the value of --output: true for json, false for table.
type JSON bool

// Set takes table or json.
func (j *JSON) Set(format string) error {
	switch format {
	case "table", "json":
		*j = format == "json"
		return nil
	}
	return fmt.Errorf("%q is neither table nor json", format)
}

func (j *JSON) String() string {
	if *j {
		return "json"
	}
	return "table"
}

// Type is what --help says of the value.
func (*JSON) Type() string { return "format" }
