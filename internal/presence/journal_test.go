//go:build linux

package presence

func fakeJournalctl(string, []string) int { return 1 }
func journalClient(string) int { return 1 }
