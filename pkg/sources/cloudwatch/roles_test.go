package cloudwatch

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const account = "arn:aws:iam::123456789012:"

func TestRolesCheck(t *testing.T) {
	for _, test := range []struct {
		namespaces, arns string
		namespace, arn   string
		want             bool
	}{
		{"payments", "role/reader", "payments", "role/reader", true},
		{"payments", "role/reader", "shop", "role/reader", false},
		{"payments", "role/reader", "payments", "role/writer", false},
		{"payments", "role/reader", "payments-2", "role/reader", false},
		{"payments", "role/reader", "payments", "role/reader2", false},
		{"payments", "role/reader", "payments", "role/Reader", false},
		{"team-*", "role/*", "team-a", "role/anything", true},
		{"team-*", "role/*", "team-", "role/a", true},
		{"team-*", "role/*", "a-team-a", "role/a", false},
		{"*", "role/reader", "payments", "role/reader", true},
		{"*-prod", "role/a*c*e", "shop-prod", "role/abcde", true},
		{"*", "role/a*c*e", "shop-prod", "role/abcdf", false},
		// A path is never matched by accident.
		{"*", "role/*", "shop", "role/team/reader", false},
		{"*", "role/team/*", "shop", "role/team/reader", true},
		{"*", "role/team/*", "shop", "role/team/admin/reader", false},
		{"*", "role/*/*", "shop", "role/team/reader", true},
		{"*", "role/*/*", "shop", "role/reader", false},
		{"*", "role/reader*", "shop", "role/reader/admin", false},
		// Nothing but * stands for more than itself.
		{"*", "role/team?/reader", "shop", "role/team1/reader", false},
		{"*", "role/team?/reader", "shop", "role/team?/reader", true},
		{"*", "role/[a-z]/*", "shop", "role/b/reader", false},
		{"*", "role/[a-z]/*", "shop", "role/[a-z]/reader", true},
		{"*", `role/\*/*`, "shop", "role/*/reader", false},
		{"*", `role/\*/*`, "shop", `role/\a/reader`, true},
		{"*", "role/a.c", "shop", "role/abc", false},
	} {
		r := Roles{{Namespaces: []string{"other"}, ARNs: []string{account + "role/*"}}, {Namespaces: []string{test.namespaces}, ARNs: []string{account + test.arns}}}
		if err := r.validate(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
		if err := r.Check(test.namespace, account+test.arn); (err == nil) != test.want {
			t.Errorf("%s may use %s, and %s wants %s: allowed is %t, want %t", test.namespaces, test.arns, test.namespace, test.arn, err == nil, test.want)
		}
	}
}

// An entry allows its roles to its namespaces, and not those of another entry.
func TestRolesAreNotMixed(t *testing.T) {
	r := Roles{
		{Namespaces: []string{"a", "b"}, ARNs: []string{account + "role/one", account + "role/two"}},
		{Namespaces: []string{"c"}, ARNs: []string{account + "role/three"}},
	}
	for namespace, want := range map[string]string{"a": "one two", "b": "one two", "c": "three", "d": ""} {
		var got []string
		for _, name := range []string{"one", "two", "three"} {
			if r.Check(namespace, account+"role/"+name) == nil {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s may use %q, want %q", namespace, got, want)
		}
	}
	for _, other := range []string{
		"arn:aws:iam::210987654321:role/three", "arn:aws-cn:iam::123456789012:role/three", "arn:aws:iam::123456789012:role/x:role/three",
	} {
		if r.Check("c", other) == nil {
			t.Errorf("c may use %s", other)
		}
	}
	if err := Roles(nil).Check("a", ""); err != nil {
		t.Errorf("no role needs a permission: %v", err)
	}
	if err := Roles(nil).Check("a", account+"role/one"); err == nil {
		t.Error("without a list a role is allowed")
	}
}

// What the error says to add is read as it is meant, and allows that role to that namespace
// and no more.
func TestRoleErrorIsItsOwnCure(t *testing.T) {
	for _, namespace := range []string{"payments", "null", "1e3", "on", "0x10", "a-b"} {
		for _, role := range []string{"reader", "team/metrics+=,.@-_reader", "it's/a{b}[c],d/reader", "#/reader", `"/\/reader`} {
			want := &RoleError{namespace, account + "role/" + role}
			var r Roles
			_, lines, _ := strings.Cut(want.Error(), "add to cloudwatch.roles there: ")
			if err := yaml.Unmarshal([]byte(lines), &r); err != nil {
				t.Errorf("%s: %v", lines, err)
				continue
			}
			if err := errors.Join(r.validate(), r.Check(want.Namespace, want.ARN)); err != nil {
				t.Errorf("after adding %s: %v", lines, err)
			}
			if len(r) != 1 || r.Check("other", want.ARN) == nil || r.Check(want.Namespace, want.ARN+"2") == nil {
				t.Errorf("%s allows more: %+v", lines, r)
			}
		}
	}
	const want = "the adapter's configuration does not let the namespace payments use the role arn:aws:iam::123456789012:role/reader; " +
		"to allow it, add to cloudwatch.roles there: - {namespaces: [payments], arns: [arn:aws:iam::123456789012:role/reader]}"
	if got := Roles(nil).Check("payments", account+"role/reader").Error(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestRolesValidate(t *testing.T) {
	good := RoleGrant{Namespaces: []string{"payments"}, ARNs: []string{account + "role/reader"}}
	for _, namespace := range []string{"", "Payments", "-a", "a-", "a b", "a/b", "a.b", "a?", "[a]", strings.Repeat("a", 64)} {
		g := good
		g.Namespaces = []string{"shop", namespace}
		if err := (Roles{good, g}).validate(); err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("roles[1].namespaces[1]: %q is not the name of a namespace", namespace)) {
			t.Errorf("namespace %q: the error is %v", namespace, err)
		}
	}
	for _, arn := range []string{
		"", "*", "reader", "arn:*", "arn:aws:iam::*:role/reader", "arn:aws:iam::12345678901*:role/reader", "arn:aws:iam::1234567890123:role/reader",
		"arn:aws:iam::123456789012:*", account + "*/reader", account + "role*", account + "role/", account + "user/reader", account + "role/a b",
		"arn:aws*:iam::123456789012:role/reader", "arn:aws:sts::123456789012:assumed-role/a/b", account + "role/" + strings.Repeat("a", 65),
		account + "role/" + strings.Repeat("a/", 1024) + "a", account + "role/reader\n",
	} {
		g := good
		g.ARNs = []string{arn}
		if err := (Roles{g}).validate(); err == nil || !strings.HasPrefix(err.Error(), "roles[0].arns[0]: ") || len(err.Error()) > 600 {
			t.Errorf("ARN %q: the error is %v", arn, err)
		}
	}
	err := (Roles{{}, good}).validate()
	if err == nil || err.Error() != `roles[0].namespaces: there are none: name those whose objects may use the roles, or "*"`+"\n"+
		"roles[0].arns: there are none: name the roles, such as arn:aws:iam::123456789012:role/metrics-reader" {
		t.Errorf("empty lists: the error is %v", err)
	}
	var many Roles
	for range maxRolePatterns / 2 {
		many = append(many, good)
	}
	if err := many.validate(); err != nil {
		t.Error(err)
	}
	many = append(many, good)
	if err := many.validate(); err == nil || err.Error() != "roles: 5002 names and ARNs are more than the 5000 that there may be" {
		t.Errorf("too many: the error is %v", err)
	}
}

// BenchmarkRolesCheck is the worst: an object of a namespace that may use much, but not
// its role.
func BenchmarkRolesCheck(b *testing.B) {
	r := Roles{{Namespaces: []string{"*"}}}
	for i := range maxRolePatterns - 1 {
		r[0].ARNs = append(r[0].ARNs, fmt.Sprintf("%srole/metrics-*-%d", account, i))
	}
	for b.Loop() {
		if r.Check("payments", account+"role/metrics-reader") == nil {
			b.Fatal("allowed")
		}
	}
}
