// Image packs porthole's container image: for each platform one static program on nothing, and the licences of what is in it.
// It must not know how the programs are built; the same files make the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run() error {
	var p pack
	flag.StringVar(&p.name, "name", "", "full name of the image, as porthole.dev/porthole:v1.2.3")
	flag.StringVar(&p.licenses, "licenses", "", "folder of licence files")
	out := flag.String("o", "", "archive to write (OCI image layout)")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: image -name NAME -licenses FOLDER -o FILE ARCHITECTURE=PROGRAM...")
		flag.PrintDefaults()
	}
	flag.Parse()
	for _, arg := range flag.Args() {
		architecture, path, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q: want ARCHITECTURE=PROGRAM", arg)
		}
		p.programs = append(p.programs, program{architecture, path})
	}
	digest, err := p.write(*out)
	if err != nil {
		return err
	}
	fmt.Printf("%s@%s %s\n", p.name, digest, *out)
	return nil
}
