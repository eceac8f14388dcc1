package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// Who watches over a machine learns from its health and from a script that a service
// could not be started; why, the operator alone.
func TestHealthOfAServiceThatDoesNotStart(t *testing.T) {
	s := newSite(t)
	var err error
	s.config, err = s.lab.Write("doorward.toml", fmt.Sprintf("[gateway]\nstate = %q\ncontrol = %q\nmetrics = \"127.0.0.1:9472\"\n%s"+
		"\n[door.web.service]\nstart = [\"/bin/false\"]\nstop = [\"/bin/true\"]\nstatus = [\"/bin/false\"]\n",
		s.lab.Path("state"), s.socket(), webDoor("", touchKnock)))
	s.must(err)
	s.gate, err = s.server.Doorward(t.Context(), bin, s.config, s.socket())
	s.must(err)
	s.until("all is well", func() error { return s.health(200, "ok") })
	s.operator("status", "--exit-code")
	s.touch(s.visitor, gate4, "59000", "59002")
	s.until("the failure is seen", func() error {
		return s.health(503, "service_failed: door web: its service could not be started, so right knocks do not open it")
	})
	told, err := s.gate.Operator(t.Context(), "status", "--exit-code", "--json")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("status --exit-code ended with %v, want exit status 1", err)
	}
	s.says(told, `the service of door web could not be started.*/bin/false`)
	page, err := s.ask("/metrics")
	s.must(err)
	for _, want := range []string{
		`doorward_service_start_failures_total{door="web"} 1`, `doorward_service_state{door="web",state="failed"} 1`,
		`doorward_problems{code="service_failed"} 1`, `doorward_fence_up 1`, `doorward_events_total{door="web",event="error"} 1`,
	} {
		if !strings.Contains(page, "\n"+want+"\n") {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

// health says what is otherwise than wanted.
func (s *site) health(code int, want string) error {
	got, err := s.ask("/healthz")
	if want = fmt.Sprintf("%d\n%s\n", code, want); err == nil && got != want {
		return fmt.Errorf("health is %q, want %q", got, want)
	}
	return err
}

// ask asks the metrics listener, and returns the status and what it says.
func (s *site) ask(path string) (string, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return s.dial(s.server, "127.0.0.1", "9472", soon)
		},
	}}
	answer, err := client.Get("http://127.0.0.1:9472" + path)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return fmt.Sprintf("%d\n%s", answer.StatusCode, body), err
}
