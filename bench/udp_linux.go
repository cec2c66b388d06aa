package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"porthole.dev/porthole/internal/target"
)

// udpTime is how long one measurement of datagrams takes.
const udpTime = 500 * time.Millisecond

// udp measures datagrams into a namespace, beside socat with a socket that was made inside, which
// is the fastest that socat can do: its own way since 1.8 (netns=), and here with a descriptor
// that it inherits, as older ones can as well.
func (b *bench) udp(ctx context.Context) error {
	porthole, err := b.startPorthole(ctx, fmt.Sprintf(":%d/udp", b.inside.port))
	if err != nil {
		return err
	}
	defer porthole.close()
	socat, err := b.startSocatUDP(ctx)
	if err != nil {
		return err
	}
	defer socat.close()
	var dials []dialer // each is one client for all of it, as socat can serve only one
	for _, p := range []*peer{porthole, socat} {
		s, err := newSender(p.address)
		if err != nil {
			return err
		}
		defer s.Close()
		dials = append(dials, func() (net.Conn, error) { return s, nil })
	}
	for _, size := range []int{64, 1400} {
		if err := b.udpRates(dials, size); err != nil {
			return err
		}
	}
	return nil
}

// udpRates measures datagrams of one size.
func (b *bench) udpRates(dials []dialer, size int) error {
	var rates [2][]float64
	for _, way := range []struct {
		name    string
		measure func(*sender, int, time.Duration) (float64, error)
	}{{"there and back", (*sender).echo}, {"one way", (*sender).flood}} {
		figures, err := b.udpAlternate(dials, func(s *sender) (float64, error) { return way.measure(s, size, udpTime) })
		if err != nil {
			return err
		}
		rates = [2][]float64(figures)
		ratio := median(ratios(rates[0], rates[1]))
		b.add(row{fmt.Sprintf("UDP, %d bytes, %s, thousands a second", size, way.name), fmt.Sprintf("%.0f", median(rates[0])/1e3),
			fmt.Sprintf("%.0f (socat)", median(rates[1])/1e3), fmt.Sprintf("%.2f", ratio), "at least 1", ratio >= 1})
	}
	half := median(rates[0]) / 2 // of what porthole carried one way
	lost, err := b.udpAlternate(dials, func(s *sender) (float64, error) { return s.pace(size, half, udpTime) })
	if err != nil {
		return err
	}
	b.add(row{fmt.Sprintf("UDP, %d bytes, lost at half of that, %.0f thousands a second", size, half/1e3), fmt.Sprintf("%.3f %%", 100*median(lost[0])),
		fmt.Sprintf("%.3f %% (socat)", 100*median(lost[1])), "-", "none", median(lost[0]) == 0})
	return nil
}

// udpAlternate is alternate, for senders of datagrams.
func (b *bench) udpAlternate(dials []dialer, measure func(*sender) (float64, error)) ([][]float64, error) {
	return b.alternate(dials, func(d dialer) (float64, error) {
		s, _ := d()
		return measure(s.(*sender))
	})
}

// startSocatUDP starts a socat between a port here and a socket inside, for one client: with fork
// its children would stay.
func (b *bench) startSocatUDP(ctx context.Context) (*peer, error) {
	inside, err := b.inside.ns.Dial(ctx, target.Address{Network: target.UDP, Port: b.inside.port})
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	f, err := inside.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	free, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := free.LocalAddr().(*net.UDPAddr)
	free.Close()
	cmd := exec.CommandContext(ctx, "socat", "-b", "65536", fmt.Sprintf("UDP4-LISTEN:%d,bind=127.0.0.1", address.Port), "FD:3")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start socat: %w", err)
	}
	return &peer{cmd: cmd, address: address.String()}, nil
}
