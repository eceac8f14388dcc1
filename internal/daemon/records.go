//go:build linux

package daemon

import (
	"strings"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/export"
	"github.com/doorward/doorward/internal/gateway"
	"github.com/doorward/doorward/internal/journal"
)

// targets returns where the records of the audit trail are sent.
func targets(r config.Records) (all []export.Target) {
	if r.Journal {
		all = append(all, export.Target{Form: export.Journal, Network: "unixgram", Address: journal.Socket})
	}
	for _, s := range r.Syslog {
		if s == "" {
			continue
		}
		network, address, _ := strings.Cut(s, ":")
		if network == "unix" {
			network = "unixgram"
		}
		all = append(all, export.Target{Form: export.Syslog, Network: network, Address: address})
	}
	return all
}

// recordSink returns the function for gateway.Options.Tell.
func (d *Daemon) recordSink(where config.Records, exporter *export.Exporter) func(audit.Record) {
	return func(r audit.Record) {
		if where.Log {
			gateway.LogRecord(d.Log, r)
		}
		exporter.Tell(r)
	}
}
