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

// rule is a system call that is allowed when all conditions hold; of those that
// several rules allow, one rule's. Without conditions it is always allowed.
type rule struct {
	call string
	when []condition
}

// condition is one on an argument of 64 bits.
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

// What is answered to a system call, seccomp(2).
const (
	allowed = uint32(unix.SECCOMP_RET_ALLOW)
	denied  = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)
	unknown = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)
)

// Where struct seccomp_data has what a call is, and its arguments, 8 bytes each.
const (
	numberAt    = 0
	machineAt   = 4
	argumentsAt = 16
)

// compile makes the filter for a machine: calls that are absent are answered
// as by a kernel that has not got them, those that a rule allows go through,
// and all others fail with EPERM. A call that the machine does not have is left
// out: arm64 has no open(2), only openat(2).
//
// Each call is a block that ends with its answers, so that the program has no
// jumps across blocks but those from one block to the next:
//
//	jeq call, the next line, the block after
//	conditions of the first rule, or the second rule; allow
//	conditions of the second rule, or the end; allow
//	deny
func compile(machine *arch.Info, absent []string, rules []rule) []bpf.Instruction {
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: machineAt, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(machine.ID), SkipTrue: 1},
		bpf.RetConstant{Val: denied}, // the calls of a machine of 32 bits have other numbers
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

// compile makes the code of one rule, after which that of the next one stands.
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
			case half.at == high: // bits of the upper half will do
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
		jump.SkipTrue = uint8(len(code) - at - 1) // six conditions are 24 instructions
		code[at] = jump
	}
	return code
}

// load has the kernel apply a filter to all threads of the process, which gives
// up new privileges for it.
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
