package main

import (
	"context"
	"fmt"
	"path/filepath"
)

// unix measures downloads with a Unix socket at either end, beside TCP at both.
func (b *bench) unix(ctx context.Context) error {
	local := filepath.Join(b.inside.dir, "local.sock")
	var dials []dialer
	for _, port := range []string{b.inside.tcp(), local + b.inside.tcp(), ":" + b.inside.socket()} {
		p, err := b.startPorthole(ctx, port)
		if err != nil {
			return err
		}
		defer p.close()
		dials = append(dials, p.dial)
	}
	rates, err := b.alternate(dials, b.download)
	if err != nil {
		return err
	}
	for i, what := range []string{"a local Unix socket", "a Unix socket inside"} {
		ratio := median(ratios(rates[i+1], rates[0]))
		b.add(row{"download, MB/s: " + what, fmt.Sprintf("%.0f", median(rates[i+1])), fmt.Sprintf("%.0f (porthole, TCP at both ends)", median(rates[0])),
			fmt.Sprintf("%.2f", ratio), "at least 0.95", ratio >= 0.95})
	}
	return nil
}
