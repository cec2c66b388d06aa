package kuard

import (
	"html"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// someTree makes a directory to show, and a secret beside it. It returns the one to show.
func someTree(t *testing.T) string {
	t.Helper()
	base := t.TempDir()
	root := filepath.Join(base, "root")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, content string) {
		t.Helper()
		must(os.WriteFile(filepath.Join(base, name), []byte(content), 0o644))
	}
	link := func(target, name string) { t.Helper(); must(os.Symlink(target, filepath.Join(root, name))) }
	must(os.MkdirAll(filepath.Join(root, "etc/deep dir"), 0o755))
	write("secret", "SECRET")
	write("root/etc/motd", "hello\n")
	write("root/page.html", "<script>alert(1)</script>")
	write("root/empty", "")
	write("root/a%2f?#&<b>", "strange name")
	write("root/large.bin", strings.Repeat("\x00\x01\x02\x03", maxWhole))
	link("etc/motd", "relative")
	link("/etc/motd", "absolute")
	link("/etc", "dirlink")
	link("../secret", "escape")
	link("../../../../../../etc/hostname", "deepescape")
	link(filepath.Join(base, "secret"), "absescape")
	link("loop", "loop")
	link("nosuch", "dangling")
	must(os.Chtimes(filepath.Join(root, "etc/motd"), time.Time{}, time.Date(2024, 2, 29, 12, 30, 0, 0, time.UTC)))
	return root
}

func TestListing(t *testing.T) {
	s := serve(t, &Server{Root: someTree(t)})
	page := html.UnescapeString(s.want(http.StatusOK, "GET", "/fs/", "").body)
	for _, want := range []string{
		`<tr data-kind="directory" data-name="etc">`, `<a href="./etc/">etc</a>`,
		`<tr data-kind="link" data-name="absolute">`, `→ /etc/motd`,
		`<a href="./a%252f%3F%23&%3Cb%3E">a%2f?#&<b></a>`, `4.0 MiB`, `-rw-r--r--`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the listing has no %s", want)
		}
	}
	if strings.Index(page, `data-name="etc"`) > strings.Index(page, `data-name="absolute"`) {
		t.Error("directories do not come first")
	}
	page = s.want(http.StatusOK, "GET", "/fs/etc/", "").body
	for _, want := range []string{`>2024-02-29 12:30</time>`, `<td class="num">6 B</td>`, `./deep%20dir/`} {
		if !strings.Contains(page, want) {
			t.Errorf("the listing of etc has no %s", want)
		}
	}
}

func TestFiles(t *testing.T) {
	s := serve(t, &Server{Root: someTree(t)})
	for _, c := range []struct{ path, kind, body string }{
		{"/fs/etc/motd", "text/plain; charset=utf-8", "hello\n"},
		{"/fs/relative", "text/plain; charset=utf-8", "hello\n"},
		{"/fs/absolute", "text/plain; charset=utf-8", "hello\n"},
		{"/fs/dirlink/motd", "text/plain; charset=utf-8", "hello\n"},
		{"/fs/page.html", "text/plain; charset=utf-8", "<script>alert(1)</script>"},
		{"/fs/empty", "text/plain; charset=utf-8", ""},
		{"/fs/a%252f%3F%23&%3Cb%3E", "text/plain; charset=utf-8", "strange name"},
	} {
		r := s.want(http.StatusOK, "GET", c.path, "")
		if r.body != c.body || r.header.Get("Content-Type") != c.kind {
			t.Errorf("GET %s: %q as %s", c.path, r.body, r.header.Get("Content-Type"))
		}
		if !strings.HasPrefix(r.header.Get("Content-Security-Policy"), "sandbox;") {
			t.Errorf("GET %s: not in a sandbox", c.path)
		}
	}
	large := s.want(http.StatusOK, "GET", "/fs/large.bin", "")
	if len(large.body) != 4*maxWhole || large.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("large.bin: %d bytes as %s", len(large.body), large.header.Get("Content-Type"))
	}
	if r := s.want(http.StatusPartialContent, "GET", "/fs/large.bin", "", "Range", "bytes=4-7"); r.body != "\x00\x01\x02\x03" {
		t.Errorf("a range is %q", r.body)
	}
	if r := s.want(http.StatusOK, "HEAD", "/fs/etc/motd", ""); r.header.Get("Content-Length") != "6" {
		t.Errorf("HEAD tells of %s bytes", r.header.Get("Content-Length"))
	}
}

func TestRedirects(t *testing.T) {
	s := serve(t, &Server{Root: someTree(t)})
	for path, want := range map[string]string{"/fs/etc": "/fs/etc/", "/fs/dirlink": "/fs/dirlink/", "/fs/etc/deep%20dir": "/fs/etc/deep%20dir/", "/fs": "/fs/"} {
		if r := s.do("GET", path, ""); r.status/100 != 3 || r.header.Get("Location") != want {
			t.Errorf("GET %s: %d to %q, want %q", path, r.status, r.header.Get("Location"), want)
		}
	}
}

func TestNothingOutsideTheRoot(t *testing.T) {
	s := serve(t, &Server{Root: someTree(t)})
	for path, status := range map[string]int{
		"/fs/escape": 404, "/fs/absescape": 404, "/fs/deepescape": 404, "/fs/..%2fsecret": 404, "/fs/etc/..%2f..%2f..%2fsecret": 404,
		"/fs/%2e%2e%2fsecret": 404, "/fs/loop": 403, "/fs/dangling": 404, "/fs/nosuch": 404, "/fs/etc/motd/x": 404, "/fs/a%00b": 404,
		"/fs/" + strings.Repeat("n", 300): 404, "/fs/" + strings.Repeat("etc/deep/", 2000): 404,
	} {
		r := s.want(status, "GET", path, "")
		if strings.Contains(r.body, "SECRET") || !strings.Contains(r.body, `id="fs-error"`) {
			t.Errorf("GET %s: %s", path, r.body)
		}
		if len(r.body) > 256<<10 {
			t.Errorf("GET %.80s: a page of %d bytes", path, len(r.body))
		}
	}
}

// A link that points to the root's parent ends at the root, as under chroot(2).
func TestParentOfTheRootIsTheRoot(t *testing.T) {
	root := someTree(t)
	if err := os.Symlink("../..", filepath.Join(root, "up")); err != nil {
		t.Fatal(err)
	}
	s := serve(t, &Server{Root: root})
	if page := s.want(http.StatusOK, "GET", "/fs/up/", "").body; !strings.Contains(page, `data-name="page.html"`) {
		t.Error("/fs/up/ is not the root")
	}
}

// However links are laid, resolving ends, and at a local path.
func FuzzTree(f *testing.F) {
	f.Add("a/b", "../../x", "/b")
	f.Add("b/../a", "b", "a")
	f.Add("//./", ".", "..")
	f.Fuzz(func(t *testing.T, name, a, b string) {
		dir := t.TempDir()
		for link, target := range map[string]string{"a": a, "b": b} {
			if os.Symlink(target, filepath.Join(dir, link)) != nil {
				return // not a link's target
			}
		}
		tr, err := openTree(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.close()
		if at, err := tr.resolve(name); err == nil && !filepath.IsLocal(at) {
			t.Fatalf("%q is at %q", name, at)
		}
	})
}
