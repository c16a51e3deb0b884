//go:build !linux

package env

import (
	"context"
	"io"
)

// CanRunNode returns a NoNodeError: only Linux can have a real node.
func CanRunNode() error { return &NoNodeError{Reason: "it needs Linux"} }

// Apart calls run.
func Apart(run func() int) int { return run() }

func isApart() bool { return false }

func pluginDir() (string, error) { return "", CanRunNode() }

func (c *Cluster) clearNode() error { return nil }

func cgroupName() string { return "" }

// Container is a running container of the real node.
type Container struct{}

// FindContainer finds none.
func (c *Cluster) FindContainer(string) (*Container, error) { return nil, CanRunNode() }

// Kill does nothing.
func (k *Container) Kill() error { return CanRunNode() }

// Starve does nothing.
func (k *Container) Starve() error { return CanRunNode() }

// Memory is not known.
func (k *Container) Memory() (used, limit int, err error) { return 0, 0, CanRunNode() }

// LimitMemory does nothing.
func (k *Container) LimitMemory(int) error { return CanRunNode() }

// Hold holds nothing.
func (k *Container) Hold(context.Context, int) (io.Closer, error) { return nil, CanRunNode() }
