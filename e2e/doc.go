// Package e2e tests doorward whole: the real daemon on a host of its own, with
// the real sshd behind a door and real programs as visitors, the nft command as
// the judge of the ruleset, and bad days made on purpose. All of it happens in
// network namespaces; it needs root. The package has tests only.
package e2e
