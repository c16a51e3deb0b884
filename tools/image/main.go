// Command image packs the adapter's binaries into an OCI image, without a daemon and without
// a base image, and pushes it.
//
//	image build --binaries DIR --name REPOSITORY --version VERSION --revision COMMIT --created SECONDS --output DIR
//	image push --layout DIR [--to REPOSITORY]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	//nolint:forbidigo // A program starts with the context that it makes.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1) //nolint:forbidigo // A program ends with a code.
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	if len(args) == 0 {
		return errors.New("say build or push")
	}
	switch args[0] {
	case "build":
		return runBuild(out, args[1:])
	case "push":
		return runPush(ctx, out, args[1:])
	}
	return fmt.Errorf("unknown command %q: say build or push", args[0])
}

func runBuild(out io.Writer, args []string) error {
	var (
		r         release
		platforms string
		created   int64
		output    string
	)
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	flags.StringVar(&r.binaries, "binaries", "", "`folder` of the binaries, as OS-ARCHITECTURE/adapter")
	flags.StringVar(&platforms, "platforms", "linux/amd64,linux/arm64", "platforms of the image, comma-separated")
	flags.StringVar(&r.name, "name", "", "`repository` that the image is named after")
	flags.StringVar(&r.version, "version", "", "version that the binaries are stamped with; without its v it is the image's tag")
	flags.StringVar(&r.revision, "revision", "", "`commit` that the binaries are built from")
	flags.Int64Var(&created, "created", 0, "the time that the image is said to be of, in `seconds` since 1970: the commit's, so that two builds are equal")
	flags.StringVar(&output, "output", "", "`folder` of the OCI layout; beside it are written the layout as FOLDER.tar and the SBOMs as FOLDER-OS-ARCHITECTURE.spdx.json")
	if err := parse(flags, args, "binaries", "name", "version", "revision", "created", "output"); err != nil {
		return err
	}
	r.created = time.Unix(created, 0).UTC()
	for text := range strings.SplitSeq(platforms, ",") {
		p, err := v1.ParsePlatform(text)
		if err != nil || p.Architecture == "" {
			return fmt.Errorf("--platforms: %q is not like linux/amd64", text)
		}
		r.platforms = append(r.platforms, *p)
	}
	return build(out, r, output)
}

func runPush(ctx context.Context, out io.Writer, args []string) error {
	var dir, to string
	flags := flag.NewFlagSet("push", flag.ContinueOnError)
	flags.StringVar(&dir, "layout", "", "`folder` of the OCI layout")
	flags.StringVar(&to, "to", "", "`repository` to push to, in place of the one that the image is named after")
	if err := parse(flags, args, "layout"); err != nil {
		return err
	}
	return push(ctx, out, dir, to)
}

// parse refuses arguments without a flag, and a command without one of the flags that it needs.
func parse(flags *flag.FlagSet, args []string, needed ...string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%s: what is %q?", flags.Name(), flags.Arg(0))
	}
	for _, name := range needed {
		if flags.Lookup(name).Value.String() == flags.Lookup(name).DefValue {
			return fmt.Errorf("%s: --%s is missing", flags.Name(), name)
		}
	}
	return nil
}
