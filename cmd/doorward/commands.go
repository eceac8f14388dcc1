package main

import "github.com/spf13/cobra"

// commands are the constructors of all commands, one file each, in the order
// in which help lists them. Nouns read; verbs change.
var commands = []func(*env) *cobra.Command{
	newInit,
	newCheck,
	newStatus,
	newLog,
	newExplain,
	newOpen,
	newClose,
	newArm,
	newDiff,
	newApply,
	newDoctor,
	newKnock,
	newShare,
	newRotate,
	newVersion,
	newMan,
	newPolkit,
}
