module porthole.dev/porthole/test/cluster

go 1.26.0

require (
	github.com/chromedp/chromedp v0.23.0
	github.com/vishvananda/netlink v1.3.1
	go.uber.org/goleak v1.3.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/chromedp/cdproto v0.159.0 // indirect
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
	github.com/miekg/dns v1.1.73 // indirect
	golang.org/x/net v0.62.0 // indirect
)

require (
	github.com/vishvananda/netns v0.0.5 // indirect
	porthole.dev/porthole v0.0.0
)

replace porthole.dev/porthole => ../..
