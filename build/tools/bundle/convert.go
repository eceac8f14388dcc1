//go:build linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// convert makes the runtime's configuration for a service, as Docker does: a user
// other than root gets capabilities in the bounding set only, so that just a file's
// own come to be used. path says where a volume is.
func convert(s types.ServiceConfig, image v1.Config, path func(volume string) string) (*specs.Spec, error) {
	if err := known(s); err != nil {
		return nil, err
	}
	user, err := user(s)
	if err != nil {
		return nil, err
	}
	var bounding []string
	for _, c := range s.CapAdd {
		bounding = append(bounding, "CAP_"+strings.TrimPrefix(c, "CAP_"))
	}
	args := image.Cmd
	if len(s.Command) > 0 {
		args = s.Command
	}
	spec := &specs.Spec{
		Version: "1.0.2", // which has all that is used here; crun of Debian bookworm knows no later one
		Root:    &specs.Root{Path: "rootfs", Readonly: s.ReadOnly},
		Process: &specs.Process{
			User: user, Args: args, Env: image.Env, Cwd: "/",
			Capabilities:    &specs.LinuxCapabilities{Bounding: bounding},
			NoNewPrivileges: slices.Contains(s.SecurityOpt, "no-new-privileges:true"),
		},
		Mounts: mounts(s, path),
		// The runtime does not look at it: it is for whoever runs the bundle.
		Annotations: map[string]string{"healthcheck": healthcheck(s)},
		Linux: &specs.Linux{
			// No network namespace: it runs in that of whoever starts it.
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}},
			MaskedPaths: []string{"/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if spec.Process.Rlimits, err = limits(s); err != nil {
		return nil, err
	}
	// The profile asks which capabilities there are.
	spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(spec)
	return spec, err
}

// resources are the limits that are known, setrlimit(2).
var resources = map[string]int{"nofile": unix.RLIMIT_NOFILE, "sigpending": unix.RLIMIT_SIGPENDING}

// limits reads ulimits. Those above this process's own are lowered to them: a process
// that may not raise a limit (CAP_SYS_RESOURCE) could not start the container at all.
func limits(s types.ServiceConfig) (all []specs.POSIXRlimit, err error) {
	for _, name := range slices.Sorted(maps.Keys(s.Ulimits)) {
		resource, known := resources[name]
		limit := s.Ulimits[name]
		if !known || limit.Single <= 0 {
			return nil, fmt.Errorf("ulimits: %s: allowed is one number for nofile or sigpending", name)
		}
		var own unix.Rlimit
		if err := unix.Getrlimit(resource, &own); err != nil {
			return nil, err
		}
		n := min(uint64(limit.Single), own.Max)
		all = append(all, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Hard: n, Soft: n})
	}
	return all, nil
}

// healthcheck is the command of the service's health check, "" for none.
func healthcheck(s types.ServiceConfig) string {
	if s.HealthCheck == nil || len(s.HealthCheck.Test) == 0 || s.HealthCheck.Test[0] != "CMD" {
		return ""
	}
	return strings.Join(s.HealthCheck.Test[1:], " ")
}

// known returns an error for what would make another container than it is taken for.
func known(s types.ServiceConfig) error {
	switch {
	case s.NetworkMode != "host":
		return fmt.Errorf("network_mode is %q, want host", s.NetworkMode)
	case !slices.Equal(s.CapDrop, []string{"ALL"}):
		return fmt.Errorf("cap_drop is %q, want ALL", s.CapDrop)
	case s.Privileged || s.Pid != "" || s.Ipc != "" || s.UserNSMode != "" || len(s.Devices) > 0 || len(s.Sysctls) > 0:
		return errors.New("it is privileged, or has namespaces, devices or sysctls of the machine")
	case len(s.Entrypoint) > 0 || len(s.Environment) > 0:
		return errors.New("it has an entrypoint or an environment, which are not looked at here")
	}
	return nil
}

// user reads user and group_add, which must be numbers.
func user(s types.ServiceConfig) (specs.User, error) {
	var ids []uint32
	uid, gid, _ := strings.Cut(s.User, ":")
	for _, text := range append([]string{uid, gid}, s.GroupAdd...) {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return specs.User{}, fmt.Errorf("user %q, group_add %q: want numbers", s.User, s.GroupAdd)
		}
		ids = append(ids, uint32(id))
	}
	return specs.User{UID: ids[0], GID: ids[1], AdditionalGids: ids[2:]}, nil
}

// mounts are those that every container has, and the service's own.
func mounts(s types.ServiceConfig, path func(volume string) string) []specs.Mount {
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	for _, t := range s.Tmpfs {
		target, options, _ := strings.Cut(t, ":")
		all = append(all, specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs",
			Options: append([]string{"noexec", "nosuid", "nodev"}, strings.FieldsFunc(options, func(r rune) bool { return r == ',' })...)})
	}
	for _, v := range s.Volumes {
		m := specs.Mount{Destination: v.Target, Type: "bind", Source: v.Source, Options: []string{"rbind", "rprivate"}}
		if v.Type == types.VolumeTypeVolume {
			m.Source = path(v.Source)
		}
		if v.ReadOnly {
			m.Options = append(m.Options, "ro")
		}
		all = append(all, m)
	}
	return all
}
