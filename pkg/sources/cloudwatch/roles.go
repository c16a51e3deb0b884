package cloudwatch

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// maxRolePatterns is how many patterns Roles may have in all. Each object with a role is
// compared with them.
const maxRolePatterns = 5000

// maxRoleARN is the longest ARN that sts:AssumeRole takes
// (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html).
const maxRoleARN = 2048

// maxShown is how many bytes of a pattern an error shows.
const maxShown = 200

// Roles say which IAM roles the objects of which namespaces may have the adapter assume. What
// none of them allows is not allowed.
type Roles []RoleGrant

// RoleGrant lets objects of some namespaces use some roles.
type RoleGrant struct {
	// Namespaces are names of namespaces, at least one, in which `*` stands for any
	// characters; `"*"` is every namespace.
	Namespaces []string `yaml:"namespaces"`
	// ARNs are the ARNs of the roles, at least one. A `*` may be behind `role/` only, where it
	// stands for any characters of the role's name or of one part of its path, and so never
	// for a slash.
	ARNs []string `yaml:"arns"`
}

// RoleError is why an object may not use a role.
type RoleError struct{ Namespace, ARN string }

// Error has what to write into the configuration to allow it.
func (e *RoleError) Error() string {
	return fmt.Sprintf("the adapter's configuration does not let the namespace %s use the role %s; to allow it, add to cloudwatch.roles there: "+
		"- {namespaces: [%s], arns: [%s]}", e.Namespace, e.ARN, inFlow(e.Namespace), inFlow(e.ARN))
}

// plainFlow is text that needs no quotes in a list of YAML.
var plainFlow = regexp.MustCompile(`^[A-Za-z0-9][\w+=.@:/-]*$`)

func inFlow(text string) string {
	if plainFlow.MatchString(text) && text != "null" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

// Check is nil if objects of the namespace may use the role, and else a *RoleError. No role,
// which is an empty one, needs no permission.
func (r Roles) Check(namespace, arn string) error {
	if arn == "" {
		return nil
	}
	for _, g := range r {
		if matchesAny(g.Namespaces, namespace) && matchesAny(g.ARNs, arn) {
			return nil
		}
	}
	return &RoleError{namespace, arn}
}

// literal keeps path.Match from taking anything but a * for more than itself. A path may have
// such characters.
var literal = strings.NewReplacer(`\`, `\\`, `?`, `\?`, `[`, `\[`)

func matchesAny(patterns []string, text string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, text) })
}

func matches(pattern, text string) bool {
	first, last := strings.IndexByte(pattern, '*'), strings.LastIndexByte(pattern, '*')
	if first < 0 {
		return pattern == text
	}
	// Most are told apart by their ends, which is far cheaper.
	if !strings.HasPrefix(text, pattern[:first]) || !strings.HasSuffix(text, pattern[last+1:]) {
		return false
	}
	ok, err := path.Match(literal.Replace(pattern), text)
	return ok && err == nil
}

var (
	// namespacePattern is the rule for the name of a namespace, which is that of RFC 1123 for
	// a label.
	namespacePattern = regexp.MustCompile(`^[a-z0-9*]([a-z0-9*-]{0,61}[a-z0-9*])?$`)
	// rolePattern is the rule for roleArn of ExternalMetric.
	rolePattern = regexp.MustCompile(`^arn:aws(-[a-z]+)*:iam::[0-9]{12}:role/([\x21-\x7e]+/)?[\w+=,.@*-]{1,64}$`)
)

// validate names each pattern that cannot be.
func (r Roles) validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	n := 0
	for i, g := range r {
		n += len(g.Namespaces) + len(g.ARNs)
		if len(g.Namespaces) == 0 {
			fault(`roles[%d].namespaces: there are none: name those whose objects may use the roles, or "*"`, i)
		}
		for j, p := range g.Namespaces {
			if !namespacePattern.MatchString(p) {
				fault("roles[%d].namespaces[%d]: %q is not the name of a namespace, in which * may stand for any characters", i, j, p)
			}
		}
		if len(g.ARNs) == 0 {
			fault("roles[%d].arns: there are none: name the roles, such as arn:aws:iam::123456789012:role/metrics-reader", i)
		}
		for j, p := range g.ARNs {
			if len(p) > maxRoleARN || !rolePattern.MatchString(p) {
				fault("roles[%d].arns[%d]: %q is not the ARN of an IAM role, such as arn:aws:iam::123456789012:role/metrics-reader, "+
					"in which * may stand for characters behind role/ only", i, j, sources.Shorten(p, maxShown))
			}
		}
	}
	if n > maxRolePatterns {
		fault("roles: %d names and ARNs are more than the %d that there may be", n, maxRolePatterns)
	}
	return errors.Join(errs...)
}
