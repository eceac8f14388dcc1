//go:build !race

package gateway

// exploredStates is how many states of each scene are visited, unless
// DOORWARD_EXPLORE says otherwise.
const exploredStates = 1150

// raceEnabled says whether the race detector is on.
const raceEnabled = false
