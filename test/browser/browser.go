// Package browser opens pages in a headless Chromium, for tests of what people look at.
// It must not know what is on the pages.
package browser

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"porthole.dev/porthole/internal/testenv"
)

// Shots names the environment variable with the folder to keep screenshots in.
const Shots = "PORTHOLE_SHOTS"

// Page is a browser's only page. What goes wrong in it fails the test.
type Page struct {
	t   *testing.T
	ctx context.Context
}

// Open starts a Chromium that talks to nobody but the page, has it open the URL,
// and ends it with the test. It has three minutes for everything.
func Open(t *testing.T, url string) *Page {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		testenv.Lacking(t, "chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 3*time.Minute)
	t.Cleanup(cancel)
	p := &Page{t: t, ctx: ctx}
	p.Do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(url))
	return p
}

// Do does one step after the other.
func (p *Page) Do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal("in the browser:", err)
	}
}

// Text returns what can be read in the first element that the selector finds.
func (p *Page) Text(selector string) string {
	p.t.Helper()
	s, err := chromedp.Run(p.ctx, chromedp.Text(selector))
	if err != nil {
		p.t.Fatalf("in the browser: text of %s: %v", selector, err)
	}
	return s
}

// Shot keeps a screenshot where Shots says, if it does.
func (p *Page) Shot(name string) {
	p.t.Helper()
	dir := os.Getenv(Shots)
	if dir == "" {
		return
	}
	png, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600)
	}
	if err != nil {
		p.t.Error("screenshot:", err)
	}
}
