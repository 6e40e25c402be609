//! What the gateway's process forbids itself.

/// Keeps the process's memory, which holds signer keys, out of core dumps and away from other processes of the same user
/// (threat G3).
///
/// # Errors
/// When the kernel refuses.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn forbid_dumps() -> std::io::Result<()> {
    let off: libc::c_ulong = 0;
    // SAFETY: PR_SET_DUMPABLE takes integers only and touches no memory of ours.
    let outcome = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, off, off, off, off) };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Does nothing where the kernel has no such switch.
///
/// # Errors
/// Never.
#[cfg(not(target_os = "linux"))]
pub fn forbid_dumps() -> std::io::Result<()> {
    Ok(())
}
