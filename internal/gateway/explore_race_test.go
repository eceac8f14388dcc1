//go:build race

package gateway

// exploredStates is how many states of each scene are visited, unless
// DOORWARD_EXPLORE says otherwise. It is fewer with the race detector, which is slow and
// finds nothing here: the explorer's gateways have no goroutines that share anything.
const exploredStates = 150

// raceEnabled says whether the race detector is on.
const raceEnabled = true
