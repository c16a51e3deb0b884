// Package browser holds the tests of pages in a real browser. It is a module of its own, so
// that what drives the browser is no requirement of the other tests.
package browser
