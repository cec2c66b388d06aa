package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/kuard"
)

func newKuard() *cobra.Command {
	address := "127.0.0.1:8080"
	cmd := &cobra.Command{
		Use:   "kuard",
		Short: "Serve the demo application, a web page about the pod that it runs in",
		Long: `Serve the demo application of the book "Kubernetes: Up and Running", rewritten:
a web page about the machine or pod that it runs in. It shows the environment
and the files that its process can read, so think before you serve it on
anything but loopback.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if address == "" {
				return usageError{errors.New(`kuard: address "": want ADDRESS:PORT`)} // net.Listen would choose any port, on all addresses
			}
			ln, err := net.Listen("tcp", address)
			var bad *net.AddrError
			if errors.As(err, &bad) {
				return usageError{err}
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Serving on http://%s\n", ln.Addr())
			server := kuard.Server{
				Version: version(),
				Log:     slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)),
			}
			return server.Serve(cmd.Context(), ln)
		},
	}
	cmd.Flags().StringVar(&address, "address", address, "address and port to listen on")
	return cmd
}
