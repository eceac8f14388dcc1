//go:build linux

package sandbox

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// rule allows a system call if all conditions hold, or always if there are none. If
// there are several rules for a call, one of them is enough.
type rule struct {
	call string
	when []condition
}

// condition is a condition on an argument of 64 bits.
type condition struct {
	argument uint32 // 0 to 5
	test     test
	value    uint64
}

type test uint8

const (
	equals  test = iota
	hasNone      // of the bits of value
	hasSome      // of the bits of value
)

// The filter's answers to a system call, seccomp(2).
const (
	allowed = uint32(unix.SECCOMP_RET_ALLOW)
	denied  = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)
	unknown = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)
)

// Offsets in struct seccomp_data. An argument has 8 bytes.
const (
	numberAt    = 0
	machineAt   = 4
	argumentsAt = 16
)

// compile makes the filter for a machine: calls in absent fail with ENOSYS, as in a
// kernel that does not have them, those that a rule allows are made, and all others fail
// with EPERM. A call that the machine does not have is left out: arm64 has no open(2),
// only openat(2).
//
// Each call is a block that ends with its answers, so that the program jumps only within
// a block and to the beginning of the next one:
//
//	jeq call, the next line, the block after
//	conditions of the first rule, or the second rule; allow
//	conditions of the second rule, or the end; allow
//	deny
func compile(machine *arch.Info, absent []string, rules []rule) []bpf.Instruction {
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: machineAt, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(machine.ID), SkipTrue: 1},
		bpf.RetConstant{Val: denied}, // 32-bit system calls have other numbers
		bpf.LoadAbsolute{Off: numberAt, Size: 4},
	}
	block := func(call string, code ...bpf.Instruction) {
		if number, has := machine.SyscallNames[call]; has {
			program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(number), SkipTrue: 1}, bpf.Jump{Skip: uint32(len(code))})
			program = append(program, code...)
		}
	}
	for _, call := range absent {
		block(call, bpf.RetConstant{Val: unknown})
	}
	var order []string
	code := make(map[string][]bpf.Instruction)
	for _, r := range rules {
		if _, known := code[r.call]; !known {
			order = append(order, r.call)
		}
		code[r.call] = append(code[r.call], r.compile()...)
	}
	for _, call := range order {
		block(call, append(code[call], bpf.RetConstant{Val: denied})...)
	}
	return append(program, bpf.RetConstant{Val: denied})
}

// compile makes the code of one rule. If a condition fails, it jumps to its end, where
// the code of the next rule follows.
func (r rule) compile() (code []bpf.Instruction) {
	var fails []int // jumps to the end
	check := func(c condition, half uint32, value uint32) bpf.JumpIf {
		code = append(code, bpf.LoadAbsolute{Off: argumentsAt + 8*c.argument + half, Size: 4})
		return bpf.JumpIf{Val: value}
	}
	low, high := uint32(0), uint32(4)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low, high = high, low
	}
	for _, c := range r.when {
		up, down := uint32(c.value>>32), uint32(c.value)
		for _, half := range []struct{ at, value uint32 }{{high, up}, {low, down}} {
			jump := check(c, half.at, half.value)
			switch {
			case c.test == equals:
				jump.Cond = bpf.JumpNotEqual
			case c.test == hasNone:
				jump.Cond = bpf.JumpBitsSet
			case half.at == high: // a bit in the upper half is enough
				jump.Cond, jump.SkipTrue = bpf.JumpBitsSet, 2
				code = append(code, jump)
				continue
			default:
				jump.Cond = bpf.JumpBitsNotSet
			}
			fails = append(fails, len(code))
			code = append(code, jump)
		}
	}
	code = append(code, bpf.RetConstant{Val: allowed})
	for _, at := range fails {
		jump, _ := code[at].(bpf.JumpIf)
		jump.SkipTrue = uint8(len(code) - at - 1) // cannot overflow: six conditions have 24 instructions
		code[at] = jump
	}
	return code
}

// load makes the kernel apply a filter to all threads of the process. Before that, the
// process gives up the right to gain new privileges, as seccomp(2) demands.
func load(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble the filter: %w", err)
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&prog)))
	switch {
	case errno != 0:
		return errno
	case thread != 0:
		return fmt.Errorf("thread %d has a filter of its own", thread)
	}
	return nil
}
