//! Points at which the crash tests kill the process; nothing at all in a build without the `failpoints` feature.

/// Kills this process as `kill -9` would, when `FAILPOINTS` names this point (for example `post_w2=return`).
#[inline]
pub fn point(name: &'static str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name, |_argument| kill());
    #[cfg(not(feature = "failpoints"))]
    let _unused = name;
}

#[cfg(feature = "failpoints")]
fn kill() {
    // SAFETY: both calls take plain integers and touch no memory of ours.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
}
