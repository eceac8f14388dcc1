// Package tables reads checked TOML tables.
package tables

// Table is one table.
type Table struct{}
