package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWarnings(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string
	}{
		{"none", ssh + `knock = [{kind = "touch", listen = [1, 2, 3], touch = [1, 3]}]`, nil},
		{"no decoy", ssh + `knock = [{kind = "touch", listen = [1, 2], touch = [2, 1]}]`, []string{
			`door "ssh": knock[0]: every port of listen is to be touched: a port scan opens the door, ` +
				`so leave at least one alone`}},
		{"one touch without penalty", ssh + oneKnock + "penalty = \"0s\"\n", []string{
			`door "ssh": knock[0]: one touch is the whole knock: whoever finds the port gets in`,
			`door "ssh": knock[0]: penalty = "0s": a wrong knock costs nothing, so all of them can be tried`}},
		{"scope door", ssh + "presence.idle = \"2h\"\n" +
			`knock = [{kind = "touch", listen = [1, 2, 3], touch = [1, 3], scope = "door"}]`, []string{
			`door "ssh": knock[0]: scope = "door": the right knock of one visitor opens to everybody, ` +
				`and a stranger's wrong one makes the door ignore everybody`}},
		{"long grants, and everybody always", ssh + "open_for = \"61m\"\nalways = [\"0.0.0.0/0\", \"::/0\"]\n" +
			`knock = [{kind = "touch", listen = [1, 2, 3], touch = [1, 3]}]`, []string{
			`door "ssh": open_for = "1h1m": established connections outlive the grant, so a minute is enough to get in`,
			`door "ssh": always = ["0.0.0.0/0"]: everybody may come in without knocking`,
			`door "ssh": always = ["::/0"]: everybody may come in without knocking`}},
		{"idle under open_for", ssh + "service.unit = \"ssh.service\"\npresence.idle = \"5s\"\n" +
			`knock = [{kind = "touch", listen = [1, 2, 3], touch = [1, 3]}]`, []string{
			`door "ssh": presence.idle = "5s" is shorter than open_for = "30s": a door that goes dark takes its grants with it`}},
		{"idle of no service", ssh + "presence.idle = \"2h\"\n" +
			`knock = [{kind = "touch", listen = [1, 2, 3], touch = [1, 3]}]`, []string{
			`door "ssh": presence.idle stops nothing here: the door has no service`}},
		{"never dark, without a service", ssh + "open_for = \"5m\"\npresence = {idle = \"never\", logins = \"off\", connections = false}\n" +
			`knock = [{kind = "touch", listen = [1, 2, 3], touch = [1, 3]}]`, nil},
		{"metrics for all", "gateway.metrics = \"0.0.0.0:9472\"\n" + ssh +
			`knock = [{kind = "touch", listen = [1, 2, 3], touch = [1, 3]}]`, []string{
			`gateway.metrics: 0.0.0.0:9472: anyone who can reach this address can read the metrics, without a password: ` +
				`a loopback address keeps them on this machine`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("t.toml", []byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, c.Warnings()); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}
