// Play is aws, eksctl and the others of package cloud, under their names.
package main

import (
	"os"

	"github.com/tidegauge/tidegauge/test/docs/cloud"
)

func main() { os.Exit(cloud.Play(os.Args)) }
