//! The sandbox of the parser. Entered by a process with one thread, before it reads the first guest byte; there is no
//! way out of it but to exit.
//!
//! Limits on resources, Landlock (no file may be opened), and an allow-list of system calls that has no call to open, connect,
//! start or signal anything: a host that lacks one of these cannot mount. A call that is not on the list ends the process, so
//! what only newer kernels can deny by Landlock too (ports, signals) is a second wall where it is there, and is not needed.
//! `docs/decisions/parser-process.md` has the table.

use crate::{Error, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Memory the parser may map, in bytes. Its caches and tables have limits of their own below this.
pub const MEMORY_LIMIT: u64 = 256 << 20;
/// Seconds of processor time one parser may use in its life; a new one follows it. Ends a parser that computes for
/// ever after its supervisor was killed.
pub const CPU_LIMIT: u64 = 3600;

/// Applies all of it. Only for a process with one thread whose descriptors above 2 belong to nobody else.
///
/// # Errors
/// [`Error::Sandbox`] naming the part that could not be applied; the process must then not go on.
pub fn enter() -> Result<()> {
    close_descriptors()?;
    limit_resources()?;
    deny_files()?;
    deny_calls()
}

fn failed(part: &str, why: impl std::fmt::Display) -> Error {
    Error::Sandbox { why: format!("{part}: {why}") }
}

/// Closes everything but descriptors 0, 1 and 2: what the starting process, or a shell before it, left open. Only for a
/// process that has just begun, with one thread and nothing opened yet.
pub(crate) fn close_descriptors() -> Result<()> {
    let mut open: Vec<RawFd> = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").map_err(|error| failed("list descriptors", error))? {
        let entry = entry.map_err(|error| failed("list descriptors", error))?;
        open.extend(entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    // the listing's own descriptor is among them, closed by now
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        if fs::symlink_metadata(format!("/proc/self/fd/{descriptor}")).is_ok() {
            // SAFETY: this is the only thread, and nothing in this process has opened a descriptor yet that it
            // still uses; the number was just seen open.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    Ok(())
}

/// Memory and processor time bounded; no new descriptor, process, file content or core dump.
///
/// # Errors
/// [`Error::Sandbox`] if the host refuses.
pub fn limit_resources() -> Result<()> {
    let limits = [
        (Resource::As, MEMORY_LIMIT),
        (Resource::Cpu, CPU_LIMIT),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nproc, 0),
        (Resource::Memlock, 0),
    ];
    for (resource, limit) in limits {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
            .map_err(|errno| failed("limit resources", errno))?;
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|errno| failed("hide memory", errno))
}

/// No file, no network port, no abstract socket and no signal to others; also no new privileges.
///
/// # Errors
/// [`Error::Sandbox`] if the kernel has no Landlock, or does not enforce it.
pub fn deny_files() -> Result<()> {
    let landlock = |error: landlock::RulesetError| failed("Landlock", error);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(landlock)?
        // what newer kernels can deny besides: the list of calls denies all of it already
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .map_err(landlock)?
        .handle_access(AccessNet::from_all(ABI::V4))
        .map_err(landlock)?
        .scope(Scope::from_all(ABI::V6))
        .map_err(landlock)?
        .create()
        .map_err(landlock)?
        .restrict_self()
        .map_err(landlock)?;
    if status.ruleset == RulesetStatus::NotEnforced || !status.no_new_privs {
        return Err(failed("Landlock", "this kernel does not enforce it"));
    }
    Ok(())
}

/// From here on only the calls that memory, time, the pipe and the end need.
///
/// # Errors
/// [`Error::Sandbox`] if the kernel has no seccomp.
pub fn deny_calls() -> Result<()> {
    let program = filter().map_err(|error| failed("seccomp", error))?;
    seccompiler::apply_filter(&program).map_err(|error| failed("seccomp", error))
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let equal = |argument, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let without = |argument, bits: i32| {
        let bits = u64::from(bits.cast_unsigned());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), 0)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let mut rules = vec![
        (libc::SYS_read, vec![equal(0, 0)?]),
        (libc::SYS_write, vec![equal(0, 0)?]),
        (libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]),
        (libc::SYS_mprotect, vec![without(2, libc::PROT_EXEC)?]),
    ];
    let plain = [
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_sched_yield,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    rules.extend(plain.map(|call| (call, Vec::new())));
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules.into_iter().collect(), SeccompAction::KillProcess, SeccompAction::Allow, arch)?
        .try_into()
}
