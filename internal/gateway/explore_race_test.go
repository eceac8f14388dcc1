//go:build race

package gateway

// exploredStates is how many states of each scene are visited, unless
// DOORWARD_EXPLORE says otherwise. The race detector makes all of it slow, and
// the explorer's gateways have no goroutines that share anything.
const exploredStates = 150

// raceEnabled says whether the race detector watches.
const raceEnabled = true
