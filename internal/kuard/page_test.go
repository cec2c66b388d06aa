package kuard

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestIndexShowsTheRequest(t *testing.T) {
	s := serve(t, &Server{Version: "v1.2.3"})
	page := s.want(http.StatusOK, "GET", "/?q=1", "", "X-Seen", `<b>"bold"</b>`).body
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`<span id="version">v1.2.3</span>`,
		`<h1 id="host">` + host + `</h1>`,
		`<dd id="listen">` + s.addr + `</dd>`,
		`You came in through a port forward.`,
		`<span>GET</span> /?q=1 <span>HTTP/1.1</span>`,
		`<dt>X-Seen</dt><dd>&lt;b&gt;&#34;bold&#34;&lt;/b&gt;</dd>`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if !regexp.MustCompile(`<dd id="remote">127\.0\.0\.1:\d+</dd>`).MatchString(page) {
		t.Error("the page does not show the remote address")
	}
}

// Without Serve nothing is known of the listener, so nothing is said of it.
func TestHandlerAloneClaimsNoLoopback(t *testing.T) {
	s := &Server{}
	defer s.Close()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if body := w.Body.String(); strings.Contains(body, "port forward.</strong>") || strings.Contains(body, `id="listen"`) {
		t.Error("the page tells of a listener that it cannot know")
	}
}

func TestStaticFiles(t *testing.T) {
	s := serve(t, &Server{})
	for path, kind := range map[string]string{
		"/static/app.css": "text/css", "/static/scene.css": "text/css", "/static/app.js": "text/javascript", "/static/favicon.svg": "image/svg+xml",
	} {
		if got := s.want(http.StatusOK, "GET", path, "").header.Get("Content-Type"); !strings.HasPrefix(got, kind) {
			t.Errorf("%s is %s, want %s", path, got, kind)
		}
	}
	for _, path := range []string{"/static/", "/static/nosuch", "/static/..%2fserver.go", "/nosuch"} {
		if got := s.do("GET", path, "").status; got != http.StatusNotFound && got != http.StatusBadRequest {
			t.Errorf("GET %s: status %d", path, got)
		}
	}
}

// The page must work in a cluster without a way out, and its policy allows nothing inline.
func TestPageNeedsNothingFromElsewhere(t *testing.T) {
	foreign := regexp.MustCompile(`(?i)(src|href)="(https?:)?//|url\(|@import|<style|style="|<script>|javascript:|\son[a-z]+="`)
	for _, files := range []fs.FS{static, templates} {
		err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := fs.ReadFile(files, path)
			for _, found := range foreign.FindAllString(string(text), -1) {
				if found != "url(" { // Of the drawing's own gradients; a style sheet has none, see below.
					t.Errorf("%s has %s", path, found)
				}
			}
			if strings.HasSuffix(path, ".css") && strings.Contains(string(text), "url(") {
				t.Errorf("%s fetches something", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Every id that the script looks up by its full name is in the page.
func TestScriptAndPageAgree(t *testing.T) {
	script, err := static.ReadFile("static/app.js")
	if err != nil {
		t.Fatal(err)
	}
	page := serve(t, &Server{}).want(http.StatusOK, "GET", "/", "").body
	for _, m := range regexp.MustCompile(`\$\("([a-z-]+)"\)`).FindAllStringSubmatch(string(script), -1) {
		if !strings.Contains(page, `id="`+m[1]+`"`) {
			t.Errorf("the script looks for #%s, and the page has none", m[1])
		}
	}
}
