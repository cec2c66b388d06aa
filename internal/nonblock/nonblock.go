// Package nonblock makes system calls on sockets and pipes that never block, without a
// word to Go's scheduler. It must not know what the bytes are for.
//
// The runtime expects of any call that it may block: it takes note of it, has its
// monitor wake up every 20 µs meanwhile, and gives the processor away under a call that
// takes longer, for instance because TCP delivers what is written on loopback to its
// reader at once. With a call for each few kilobytes this costs a forwarder a quarter of
// its processor time. A call on a descriptor in non-blocking mode needs none of that;
// who has nothing to read or no room to write waits in the runtime's poller, as ever.
package nonblock
