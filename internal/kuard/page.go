package kuard

import (
	"bytes"
	"embed"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"os"
)

//go:embed static
var static embed.FS

//go:embed templates
var templates embed.FS

// pages is parsed once and never changed: executing a template is safe for concurrent use.
var pages = template.Must(template.ParseFS(templates, "templates/*.html"))

// page is what every page shows, whatever its body.
type page struct {
	Title     string
	Tab       string // the menu item to mark: "request", "fs"
	Version   string
	Host      string
	Addresses []netip.Addr
	Remote    string // the other end of the visitor's connection
	Listen    string // what the server listens on, or "" when that is not known
	Loopback  bool   // nothing outside the pod can connect to Listen
	Body      any
}

func (s *Server) newPage(r *http.Request, title, tab string) *page {
	p := &page{
		Title:     title,
		Tab:       tab,
		Version:   s.version(),
		Host:      hostName(),
		Addresses: podAddresses(),
		Remote:    r.RemoteAddr,
	}
	if addr, ok := r.Context().Value(listenKey{}).(net.Addr); ok {
		p.Listen = addr.String()
		p.Loopback = isLoopback(p.Listen)
	}
	return p
}

// write sends the page made by the named template.
// It is made in memory first, so that a failure is a 500 and not half a page.
func (p *page) write(w http.ResponseWriter, status int, name string) {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, p); err != nil {
		http.Error(w, "make the page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w)
}

func serveStatic(w http.ResponseWriter, r *http.Request) {
	// The files change with the program only, but carry no date to ask by.
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeFileFS(w, r, static, "static/"+r.PathValue("name"))
}

func (s *Server) version() string {
	if s.Version == "" {
		return "dev"
	}
	return s.Version
}

// hostName returns the pod's host name, or "unknown": the page has more to show than that.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// podAddresses returns the addresses others can reach the pod by, if it has any.
func podAddresses() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []netip.Addr
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() {
			list = append(list, prefix.Addr())
		}
	}
	return list
}

func isLoopback(hostPort string) bool {
	addr, err := netip.ParseAddrPort(hostPort)
	return err == nil && addr.Addr().Unmap().IsLoopback()
}
