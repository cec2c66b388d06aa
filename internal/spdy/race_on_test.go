//go:build race

package spdy

// raceDetector makes tests move less data, since it makes them ten times slower.
const raceDetector = true
