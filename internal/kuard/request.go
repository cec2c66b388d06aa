package kuard

import (
	"maps"
	"net/http"
	"slices"
)

// requestDetails is the request for the page itself, as the server saw it.
type requestDetails struct {
	Proto, Method, URL, Host, Remote string
	Headers                          []header
}

type header struct{ Name, Value string }

// showIndex answers with the page; its first panel is the request that asked for it.
func (s *Server) showIndex(w http.ResponseWriter, r *http.Request) {
	p := s.newPage(r, "kuard", "request")
	p.Body = describeRequest(r)
	p.write(w, http.StatusOK, "index.html")
}

func describeRequest(r *http.Request) requestDetails {
	return requestDetails{
		Proto:   r.Proto,
		Method:  r.Method,
		URL:     r.RequestURI,
		Host:    r.Host,
		Remote:  r.RemoteAddr,
		Headers: sortHeaders(r.Header),
	}
}

func sortHeaders(h http.Header) []header {
	var list []header
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, value := range h[name] {
			list = append(list, header{name, value})
		}
	}
	return list
}
