// Command hello is a web server for pods, on the pod's loopback only: what reaches it was forwarded.
// It must not know the cluster beyond what any program in a pod sees.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

func main() {
	http.HandleFunc("GET /{$}", hello)
	http.HandleFunc("GET /lookup/{name}", lookup)
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", nil))
}

func hello(w http.ResponseWriter, _ *http.Request) {
	host, err := os.Hostname()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "hello from %s\n", host)
}

// lookup resolves a name the way the pod does.
func lookup(w http.ResponseWriter, r *http.Request) {
	found, err := net.DefaultResolver.LookupHost(r.Context(), r.PathValue("name"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprintln(w, strings.Join(found, " "))
}
