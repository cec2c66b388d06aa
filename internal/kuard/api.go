package kuard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// answer is a handler that returns what to send as JSON, or why there is nothing to send.
type answer func(*http.Request) (any, error)

// ServeHTTP sends what the answer returns with status 200, or its error as {"error": "..."}.
func (a answer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v, err := a(r)
	if err != nil {
		writeJSON(w, statusOf(err), map[string]string{"error": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, v)
}

func denyCrossOrigin(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusForbidden, map[string]string{"error": "the request comes from another site's page"})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A failed write means that the visitor is gone: there is nobody left to tell.
	_ = json.NewEncoder(w).Encode(v)
}

// refusal is an error that knows the status it is answered with.
type refusal struct {
	status int
	error
}

func (r refusal) Unwrap() error { return r.error }

// refuse makes an error to be answered with status.
func refuse(status int, format string, args ...any) error {
	return refusal{status, fmt.Errorf(format, args...)}
}

func statusOf(err error) int {
	if r, ok := errors.AsType[refusal](err); ok {
		return r.status
	}
	return http.StatusInternalServerError
}

// decode reads the request's body into v: exactly one JSON value, with no field that v does not have.
func decode(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return refuseBody(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "read the request: there is more than one JSON value in it")
	}
	return nil
}

func refuseBody(err error) error {
	if long, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refuse(http.StatusRequestEntityTooLarge, "read the request: it is longer than %d bytes", long.Limit)
	}
	return refuse(http.StatusBadRequest, "read the request as JSON: %w", err)
}
