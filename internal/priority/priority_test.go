//go:build linux

package priority

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nstest"
)

// reports is the environment variable that makes the test's program a process that
// raises a thread, and says which nice value it has then.
const reports = "PRIORITY_REPORTS"

func TestMain(m *testing.M) {
	if os.Getenv(reports) != "" {
		done := make(chan string)
		go func() {
			Raise()
			done <- strconv.Itoa(own())
		}()
		fmt.Print(<-done)
		os.Exit(0)
	}
	runtime.LockOSThread() // the first thread does not end with a goroutine: none of the tests gets it
	os.Exit(m.Run())
}

// own is the calling thread's nice value.
func own() int { return nice(fmt.Sprintf("/proc/self/task/%d/stat", unix.Gettid())) }

// nice is the nice value in a file like /proc/self/stat, proc_pid_stat(5); gone if the
// file is.
func nice(file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return gone
	}
	return niceIn(string(text))
}

const gone = 100

func niceIn(stat string) int {
	_, rest, _ := strings.Cut(stat, ") ") // after the name, which is field 2
	n, err := strconv.Atoi(strings.Fields(rest)[19-3])
	if err != nil {
		panic(err)
	}
	return n
}

// raised are the threads of this process with a raised priority.
func raised(t *testing.T) (threads []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/task/*/stat")
	if err != nil || len(all) == 0 {
		t.Fatalf("threads of this process: %q, %v", all, err)
	}
	for _, file := range all {
		if nice(file) < 0 {
			threads = append(threads, file)
		}
	}
	return threads
}

// Only the thread is raised whose goroutine asked for it, and nothing that is made
// meanwhile: no thread, and no process. It ends with the goroutine.
func TestRaiseIsOneThreads(t *testing.T) {
	nstest.Need(t)
	ordinary := own() // the tests may be run by nice(1)
	if got := raised(t); len(got) > 0 {
		t.Fatalf("threads %q are raised before the test", got)
	}
	const others = 20
	var ready, ended sync.WaitGroup
	enough := make(chan struct{})
	ready.Add(1)
	ended.Go(func() {
		Raise()
		if got := own(); got != Nice {
			t.Errorf("the thread's nice value is %d, want %d", got, Nice)
		}
		ready.Add(others)
		for range others { // each needs a thread of its own, most a new one
			ended.Go(func() {
				runtime.LockOSThread() // and never unlocks it, so that the thread ends
				if got := own(); got != ordinary {
					t.Errorf("another goroutine runs with nice value %d, want %d", got, ordinary)
				}
				ready.Done()
				<-enough
			})
		}
		ready.Done()
		<-enough
	})
	ready.Wait()
	if got := raised(t); len(got) != 1 {
		t.Errorf("raised threads: %q, want one", got)
	}
	out, err := exec.Command("cat", "/proc/self/stat").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := niceIn(string(out)); got != ordinary {
		t.Errorf("a program that was started has nice value %d, want %d", got, ordinary)
	}
	close(enough)
	ended.Wait()
	nstest.Eventually(t, "the thread ends with its goroutine", func() bool { return len(raised(t)) == 0 })
}

// What may not be raised stays as it is; the limit alone suffices, as the unit sets it;
// and nothing is lowered.
func TestRaiseAsFarAsItMay(t *testing.T) {
	nstest.Need(t, "prlimit", "setpriv", "nice")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		nice, limit, want int
	}{
		"without the limit":       {0, 0, 0},
		"with a lower limit":      {0, 25, 0},
		"with the unit's limit":   {0, 30, -10},
		"from a low priority":     {5, 30, -10},
		"not beyond the limit":    {5, 29, 5},
		"a higher priority stays": {-15, 30, -15},
	} {
		t.Run(name, func(t *testing.T) {
			limit := fmt.Sprintf("--nice=%d", c.limit)
			if c.limit > 0 && exec.Command("prlimit", limit, "true").Run() != nil {
				t.Skip("nobody may raise the limit here: CAP_SYS_RESOURCE")
			}
			cmd := exec.Command("nice", "-n", strconv.Itoa(c.nice-own()), "prlimit", limit,
				"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", self)
			cmd.Env = append(os.Environ(), reports+"=1")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("run %q: %v\n%s", cmd.Args, err, out)
			}
			if got := string(out); got != strconv.Itoa(c.want) {
				t.Errorf("its nice value is %s, want %d", got, c.want)
			}
		})
	}
}
