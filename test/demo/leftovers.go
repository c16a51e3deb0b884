package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	// ownPrefix and databasePrefix begin the names of the folders of a run, in the one for
	// temporary files: its own, and that of its PostgreSQL, which env makes.
	ownPrefix      = "tidegauge-demo-"
	databasePrefix = "tidegauge-postgres-"
	// lockName is a file that a run has locked for as long as it lives, however it ends. A folder
	// without one is somebody's to read.
	lockName = "running"
	// databaseName is a file with the name of the PostgreSQL's folder.
	databaseName = "postgres"
)

// occupy marks a folder as that of a run that lives, until the file is closed.
func occupy(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, lockName)
	if err != nil {
		return nil, err
	}
	// It has its name once it is locked, or another run could take it for left.
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, lockName))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// tidy removes what earlier runs left in a folder that were killed.
func tidy(temporary string) error {
	found, err := filepath.Glob(filepath.Join(temporary, ownPrefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range found {
		if err := remove(temporary, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing what an earlier demo left: %w", err))
		}
	}
	return errors.Join(errs...)
}

// remove removes the folders of a run, unless it lives, or nobody can tell.
func remove(temporary, dir string) error {
	if !owned(dir) {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, lockName))
	if err != nil {
		return err
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // It lives.
	}
	text, err := os.ReadFile(filepath.Join(dir, databaseName))
	if err == nil {
		err = removeDatabase(temporary, string(text))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// removeDatabase removes the folder of a PostgreSQL by its name, and nothing of another name.
func removeDatabase(temporary, name string) error {
	if filepath.Base(name) != name || !strings.HasPrefix(name, databasePrefix) {
		return fmt.Errorf("%q is no folder of a demo's PostgreSQL", name)
	}
	root, err := os.OpenRoot(temporary)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(name)
}

// owned says whether it is a folder, and of this user: everybody may make one of that name.
func owned(dir string) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// note writes down where the database is, for a run to come that finds this one killed.
func (b *database) note(ctx context.Context, dir string) error {
	if b.postgres == nil {
		return nil
	}
	data, err := b.postgres.SQL(ctx, "postgres", "SHOW data_directory")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, databaseName), []byte(filepath.Base(filepath.Dir(data))), 0o600)
}
