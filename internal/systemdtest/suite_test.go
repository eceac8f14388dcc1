//go:build linux

package systemdtest

import (
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
)

func TestSuites(t *testing.T) {
	for _, suite := range Suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := BootSuite(t, suite, nstest.New(t))
			if got := m.Run("cat", "/etc/os-release"); !strings.Contains(got, "VERSION_CODENAME="+suite+"\n") {
				t.Errorf("the machine says that it is %s", got)
			}
		})
	}
}
